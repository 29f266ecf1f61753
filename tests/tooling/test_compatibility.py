"""What docs/compatibility.md says is tested has a test."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs/compatibility.md"


def test_every_file_of_tests_that_is_named_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", DOCUMENT.read_text()))
    assert len(named) > 20
    present = {str(file.relative_to(TESTS)) for file in TESTS.rglob("test_*.py")}
    assert [name for name in named if not any(file.endswith(name) for file in present)] == []


def test_every_point_of_the_checklist_is_there() -> None:
    checklist = DOCUMENT.read_text().partition("## The checklist")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\d+) \|", checklist, re.MULTILINE) == [str(number) for number in range(1, 22)]
