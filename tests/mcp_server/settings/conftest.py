"""Settings are read from a clean environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_server.settings import Reading, Settings, SettingsRefused

Read = Callable[..., Reading]
Refusals = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the variables given, in an environment that names a data directory only."""

    def reading(**variables: str) -> Reading:
        return Settings.read({"CASEMATE_DATA": str(tmp_path)} | variables)

    return reading


@pytest.fixture
def refusals(read: Read) -> Refusals:
    """Reads the variables given, and gives the reasons why not."""

    def reasons(**variables: str) -> list[str]:
        with pytest.raises(SettingsRefused) as caught:
            read(**variables)
        return list(caught.value.reasons)

    return reasons


@pytest.fixture
def refusal(refusals: Refusals) -> Callable[..., str]:
    """The same for exactly one reason."""

    def reason(**variables: str) -> str:
        (line,) = refusals(**variables)
        assert "\n" not in line
        return line

    return reason
