"""Fixtures of the command line's tests: `casemate` towards a server whose sandbox is this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.edge import Edge


@pytest.fixture
def cli(host: Edge, tmp_path: Path) -> Cli:
    """The command line with alice's key."""
    here = tmp_path / "here"
    here.mkdir()
    return Cli(url=host.url, key=host.keys["alice"], keys=host.keys, cwd=here)


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A directory of the sandbox, which is this host."""
    place = tmp_path / "guest"
    place.mkdir()
    return place
