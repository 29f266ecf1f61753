"""Spec files: which are read, and what is said about those that are not."""

from __future__ import annotations

import codecs
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.engine.support import unsupported
from runs.specs.document import MOST_BYTES, load, parse
from runs.specs.faults import SpecRefused
from runs.specs.rules import Problem
from tests.runs.specs.examples import SANDBOX, WORKFLOW, YAMLS
from tests.runs.specs.faulty import faults_of

DOCS = Path(__file__).parents[3] / "docs"


def refused(path: Path) -> str:
    with pytest.raises(SpecRefused) as error:
        load(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["spec.yaml", "SPEC.YML", "spec.json", "spec"])
def test_a_file_is_yaml_or_json_by_its_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(WORKFLOW if name.lower().endswith(("yaml", "yml")) else SANDBOX)
    read = load(file)
    assert read.file == str(file)
    assert read.spec.name in {"count-files", "place"}


def test_the_specs_of_the_documentation_can_be_run() -> None:
    texts = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "voidbox.md").read_text(), re.MULTILINE | re.DOTALL)
    assert texts
    for text in texts:
        assert list(unsupported(parse(text.encode(), file="docs.yaml").spec)) == []


def test_a_file_that_cannot_be_a_spec_is_refused_with_the_reason(tmp_path: Path) -> None:
    large, pipe = tmp_path / "large.yaml", tmp_path / "loop.yaml"
    large.write_bytes(b"# " * MOST_BYTES)
    pipe.symlink_to(pipe)
    assert refused(tmp_path) == f"{tmp_path}: is a directory: give a spec file"
    assert refused(tmp_path / "none.yaml").endswith(
        "none.yaml: cannot be read (No such file or directory): give a spec file"
    )
    assert refused(large).endswith("large.yaml: is larger than 1024 KiB: specs are small, give the right file")
    assert "cannot be read (Too many levels of symbolic links)" in refused(pipe)
    assert "is larger than" in refused(Path("/dev/zero"))
    assert "is not the name of a file" in refused(Path("a\0b"))


def test_a_spec_may_come_from_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, SANDBOX.encode())
    os.close(writer)
    try:
        assert load(Path(f"/dev/fd/{reader}")).spec.kind == "sandbox"
    finally:
        os.close(reader)


def test_a_byte_order_mark_of_utf_8_is_skipped() -> None:
    assert parse(codecs.BOM_UTF8 + WORKFLOW.encode(), file="w.yaml").spec.kind == "workflow"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    assert faults_of(WORKFLOW.encode(encoding)) == ["is in UTF-16 or UTF-32: save it as UTF-8"]


def test_bytes_that_are_not_utf_8_are_refused_with_their_place() -> None:
    text = WORKFLOW.replace("count-files", "zählen").encode("latin-1")
    assert faults_of(text) == ["4:8: has a byte that is not UTF-8: save the file as UTF-8"]


@pytest.mark.parametrize("file", ["s.yaml", "s.json"])
@pytest.mark.parametrize("text", ["", " \n", "# only a comment", "---\n...\n", "~", "null"])
def test_a_file_without_a_document_is_refused(text: str, file: str) -> None:
    (fault,) = faults_of(text, file=file)
    assert fault == "is empty: write a spec with kind and name" or file == "s.json"


@pytest.mark.parametrize("text", ["- 1", "5", "'kind: sandbox'"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    assert len(faults_of(text)) == 1


def test_problems_found_later_are_told_with_their_place() -> None:
    document = parse(WORKFLOW.encode(), file="w.yaml")
    error = document.refused([Problem(("sandbox", "network"), "is not possible", name=True)])
    assert str(error) == "w.yaml:10:3: sandbox.network: is not possible"
    assert document.refused([]) is None


PLACES = [(kind, number) for kind, text in YAMLS.items() for number in range(len(text.splitlines()))]


@given(st.sampled_from(PLACES), st.text(alphabet=" -:[]{}&*'\"\\tabc1~\n", max_size=5), st.integers(0, 30))
def test_a_spec_with_a_slip_of_the_pen_is_read_or_refused_with_places_in_it(
    place: tuple[str, int], slip: str, column: int
) -> None:
    kind, number = place
    lines = YAMLS[kind].splitlines()
    lines[number] = lines[number][:column] + slip + lines[number][column + 1 :]
    text = "\n".join(lines)
    try:
        parse(text.encode(), file="s.yaml")
    except SpecRefused as error:
        for fault in error.faults:
            assert 0 <= fault.line <= text.count("\n") + 2
            assert fault.message


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
FIELDS = ["sandbox", "llm", "observe", "agent", "pipeline", "workflow", "name", "kind", "api_version"]


@given(st.sampled_from(list(YAMLS)), st.sampled_from(FIELDS), JUNK)
def test_a_section_that_is_something_else_is_refused_in_its_place(kind: str, field: str, junk: Any) -> None:
    spec = parse(YAMLS[kind].encode(), file="s.yaml").root.plain() | {field: junk}
    try:
        parse(json.dumps(spec).encode(), file="s.json")
    except SpecRefused as error:
        assert all(fault.line for fault in error.faults)
