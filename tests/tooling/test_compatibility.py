"""What docs/compatibility.md says is tested has a test, and no number is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs/compatibility.md"
NUMBERS = {
    "The checklist": [str(number) for number in range(1, 22)],
    "Security": [f"S{number}" for number in range(1, 21)],
    "Correctness": [f"B{number}" for number in range(1, 27)],
    "Sandbox-api": [f"W{number}" for number in range(1, 17)],
    "VoidBox": [f"V{number}" for number in range(1, 13)],
}


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", DOCUMENT.read_text())
    assert len(named) > 60
    assert [f"{file}::{name}" for file, name in named if name not in _tests_in(TESTS / file)] == []


def test_every_point_has_a_row_with_a_test() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))
    for title, numbers in NUMBERS.items():
        rows = re.findall(r"^\| (\w+) \|.*\| `[^|]+::test_[^|]+` \|$", sections[title], re.MULTILINE)
        assert rows == numbers, title


def _tests_in(file: Path) -> set[str]:
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
