"""YAML: what is read, where each value stands, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runs.specs import yaml_parser
from runs.specs.faults import SyntaxFault
from runs.specs.node import MOST_DEPTH, Node
from runs.specs.yaml_parser import parse_yaml
from tests.runs.specs.documents import documents, without_nulls

LOADERS: list[Any] = [yaml.SafeLoader, *([yaml.CSafeLoader] if hasattr(yaml, "CSafeLoader") else [])]


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__, scope="module", autouse=True)
def loader(request: pytest.FixtureRequest) -> Generator[None]:
    """Every test, with the parser in Python and with the one in C."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_parser, "_LOADER", request.param)
        yield


def refused(text: str) -> str:
    with pytest.raises(SyntaxFault) as error:
        parse_yaml(text)
    return error.value.fault.at("f")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[on, off, yes, no, y, n]", ["on", "off", "yes", "no", "y", "n"]),
        ("[true, True, FALSE, 'true']", [True, True, False, "true"]),
        ("[1:30, 2026-12-01, 0777, 1_000]", ["1:30", "2026-12-01", 777, "1_000"]),
        ("[0x10, 0o17, -5, +5, 1.5, 1e3, .inf, .nan]", [16, 15, -5, 5, 1.5, 1000.0, ".inf", ".nan"]),
        ("[null, ~, '', 'null']", [None, None, "", "null"]),
        ("[!!str 5, ! 5]", ["5", "5"]),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("{a: , b: ~, c: 1}", {"c": 1}),
        ("base: &b {x: 1}\nother: *b", {"base": {"x": 1}, "other": {"x": 1}}),
        (f"[{'9' * 30}]", [float("9" * 30)]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    root, faults = parse_yaml(text)
    assert (root.plain(), faults) == (value, [])


def test_every_value_and_every_name_knows_its_place() -> None:
    root, _ = parse_yaml("# comment\nä: [1,\n  {b: c}]\n")
    assert root.place_of(("ä",), name=True) == (2, 1)
    assert root.place_of(("ä",)) == (2, 4)
    assert root.place_of(("ä", 0)) == (2, 5)
    assert root.place_of(("ä", 1, "b"), name=True) == (3, 4)
    assert root.place_of(("ä", 1, "b")) == (3, 7)
    assert root.place_of(("ä", 1, "missing")) == (3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1", "f:2:1: is indented with a tab: YAML takes spaces only"),
        ("a:\n  b: 1\n \tc: 2", "f:3:2: is indented with a tab: YAML takes spaces only"),
        ("a: b: c", "f:1:5: is not valid YAML: mapping values are not allowed"),
        ("a: [1, 2", "f:1:9: is not valid YAML: "),
        ("a: 1\n---\nb: 2", "f:2:1: starts a second document: a file has one spec"),
        ("a: !!python/object:os.system x", "f:1:4: has the tag tag:yaml.org,2002:python/object:os.system"),
        ("a: !!set {x}", "f:1:4: has the tag tag:yaml.org,2002:set: tags are not supported"),
        ("<<: {a: 1}", "f:1:1: is a merge key (<<), which specs do not have: write the fields out"),
        ("? [a]\n: b", "f:1:3: is a list or mapping in place of a field's name: write a text"),
        ("a: &x k\n*x : b", "f:2:1: is an alias in place of a field's name"),
        ("a: *nowhere", "f:1:4: is an alias of 'nowhere', which no anchor before it defines"),
        ("a: &x [*x]", "f:1:8: is an alias of 'x', which no anchor before it defines"),
        ("a: \x00", "f:1:4: has a character that YAML does not allow: remove it"),
    ],
)
def test_what_is_not_a_spec_is_refused_with_its_place(text: str, message: str) -> None:
    assert refused(text).startswith(message)


def test_a_field_that_stands_twice_is_a_fault() -> None:
    _, faults = parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [fault.at("f") for fault in faults] == [
        "f:2:11: the field 'c' stands here twice, first in line 2: remove one",
        "f:3:1: the field 'a' stands here twice, first in line 1: remove one",
    ]


def test_aliases_that_explode_are_refused_before_they_do() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert "has more than 50000 values, those that aliases repeat included" in refused("\n".join(lines))


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "? " * 5000])
def test_what_is_nested_without_end_is_refused(text: str) -> None:
    assert "f:1:" in refused(text)


def test_aliases_cannot_nest_deeper_than_text() -> None:
    half = MOST_DEPTH * 2 // 3
    assert "nested deeper" in refused(f"a: &a {'[' * half}{']' * half}\nb: {'[' * half}*a{']' * half}")


@given(st.text(alphabet=" \t\n-:?[]{}#&*!|>'\"%@`,ab1~<.\x00é\ud7ff", max_size=60))
def test_any_text_is_read_or_refused_with_a_place_in_it(text: str) -> None:
    lines = text.splitlines() or [""]
    try:
        root, _ = parse_yaml(text)
    except SyntaxFault as error:
        assert 0 <= error.fault.line <= len(lines) + 1
    else:
        assert isinstance(root, Node)
        root.plain()


@given(documents(), st.sampled_from([None, 1, 4]))
def test_json_is_yaml_too(value: dict[str, object], indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert parse_yaml(text)[0].plain() == without_nulls(value)
