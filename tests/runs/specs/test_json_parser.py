"""JSON: what is read, where each value stands, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.specs.faults import SyntaxFault
from runs.specs.json_parser import parse_json
from tests.runs.specs.documents import documents, without_nulls


def refused(text: str) -> str:
    with pytest.raises(SyntaxFault) as error:
        parse_json(text)
    return error.value.fault.at("f")


@given(documents(), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_what_python_writes_is_read_unchanged(
    value: dict[str, object], indent: int | str | None, escaped: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    root, faults = parse_json(text)
    assert (root.plain(), faults) == (without_nulls(value), [])


@given(st.text(alphabet='{}[]:,"\\/ \n\ttruefalsn0123456789.-+eEu\x00é', max_size=40))
def test_what_is_accepted_is_what_python_accepts(text: str) -> None:
    expected: object = ...
    with suppress(ValueError):
        expected = json.loads(text) if text.strip() else None
    try:
        found = parse_json(text)[0].plain()
    except SyntaxFault:
        found = ...
    assert found == (expected if expected is ... else without_nulls(expected))


def test_every_value_and_every_name_knows_its_place() -> None:
    root, _ = parse_json('\n{"ä": [1,\r\n  {"b": "c"}]}')
    assert root.place_of((), name=True) == (2, 1)
    assert root.place_of(("ä",), name=True) == (2, 2)
    assert root.place_of(("ä", 0)) == (2, 8)
    assert root.place_of(("ä", 1, "b"), name=True) == (3, 4)
    assert root.place_of(("ä", 1, "b")) == (3, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "f:1:8: is not valid JSON: ',' is missing"),
        ('{"a" 1}', "f:1:6: is not valid JSON: ':' is missing"),
        ('{"a": 1,}', "f:1:9: is not valid JSON: a field's name in double quotes is missing"),
        ('{"a": }', "f:1:7: is not valid JSON: this is not a value"),
        ('{"a":', "f:1:6: is not valid JSON: a value is missing"),
        ('{"a": NaN}', "f:1:7: is not valid JSON: this is not a value"),
        ("{'a': 1}", "f:1:2: is not valid JSON: a field's name in double quotes is missing"),
        ('{"a": "x\ny"}', "f:1:9: is not valid JSON: invalid control character"),
        ('{"a": "\\ud800"}', "f:1:15: is not valid JSON: half of a surrogate pair stands alone"),
        ('{"a": 1} x', "f:1:10: is not valid JSON: something follows the end of the document"),
        ("[" * 100_000, "f:1:51: is nested deeper than 50 levels: flatten it"),
        (f"[{'1' * 5000}]", "f:1:2: is not valid JSON: the number has more than 50 digits"),
        (f"[{'1,' * 60_000}1]", "f:1:1: has more than 50000 values"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(text: str, message: str) -> None:
    assert refused(text).startswith(message)


def test_a_field_that_stands_twice_is_a_fault() -> None:
    _, faults = parse_json('{"a": 1,\n "a": {"b": 1, "b": 2}}')
    assert [fault.at("f") for fault in faults] == [
        "f:2:2: the field 'a' stands here twice, first in line 1: remove one",
        "f:2:16: the field 'b' stands here twice, first in line 2: remove one",
    ]
