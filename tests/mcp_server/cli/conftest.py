"""Fixtures for the tests of the command line: `casemate` with a server whose sandbox is this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.edge import Edge


@pytest.fixture
def cli(host: Edge, tmp_path: Path) -> Cli:
    """The command line with alice's key."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    return Cli(url=host.url, key=host.keys["alice"], keys=host.keys, cwd=cwd)


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A directory in the sandbox, which is this host."""
    directory = tmp_path / "guest"
    directory.mkdir()
    return directory
