"""Reads the faults of a text: where they are, and what they say."""

from __future__ import annotations

import pytest

from runs.specs.document import parse
from runs.specs.faults import SpecRefused


def faults_of(text: str | bytes, file: str = "spec.yaml") -> list[str]:
    """The faults of a text that must have some, as the user sees them, without the file's name."""
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(SpecRefused) as refused:
        parse(data, file=file)
    lines = str(refused.value).splitlines()
    assert len(lines) == len(refused.value.faults)
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:").strip() for line in lines]
