"""`casemate template`: the operator builds templates ahead."""

from __future__ import annotations

import pytest

from auth.key_file import read_key
from mcp_server.settings import Settings
from tests.mcp_server.cli.rig import Cli

pytestmark = pytest.mark.anyio


async def test_each_size_is_told_when_it_is_ready(cli: Cli, settings: Settings) -> None:
    done = await cli.using(key=read_key(settings.key_file))("template", "prewarm", "--size", "1/1024")
    assert done.status == 0, done
    begun, ready = done.err.splitlines()
    assert begun == "1 of 1: 1/1024: building, unless it exists"
    assert ready.startswith("code 1/1024: ready after ")
