"""Moving the store by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.app import open_services
from mcp_server.data_dir_lock import lock_data_dir
from mcp_server.settings import Settings
from tests.mcp_server.cli.rig import Cli

pytestmark = pytest.mark.anyio

IN = ("store", "copy", "--from", "sqlite", "--to", "mongodb")
OUT = ("store", "copy", "--from", "mongodb", "--to", "sqlite")


@pytest.fixture
async def local(tmp_path: Path) -> Cli:
    """A data directory on which a server has been."""
    (tmp_path / "data").mkdir()
    async with open_services(Settings(data=tmp_path / "data")):
        pass
    return Cli(url="", key="", keys={}, here=tmp_path)


async def test_everything_moves_to_mongodb_and_back(local: Cli, mongo_uri: str, mongo_name: str) -> None:
    named = {"MONGO_URI": mongo_uri, "MONGO_DB": mongo_name}
    copied = (await local(*IN, "--json", env=named)).json["copied"]
    assert copied["users"] == copied["organisations"] == copied["api_keys"] == 1
    assert "users" in (await local(*IN, env=named)).text
    assert (await local("user", "me", "--json", env=named)).json["email"] == "local@localhost"

    (local.here / "data" / "casemate.db").rename(local.here / "data" / "before.db")
    assert (await local(*OUT, "--json", env=named)).json["copied"]["users"] == 1
    assert (await local("user", "me", "--json")).json["email"] == "local@localhost"


async def test_a_store_in_use_is_not_copied(local: Cli) -> None:
    with lock_data_dir(local.here / "data"):
        refusal = (await local(*IN, env={"MONGO_URI": "mongodb://127.0.0.1:1"})).refusal
    assert "Another Casemate uses" in refusal


async def test_what_cannot_be_copied_is_refused_and_the_address_stays_unsaid(local: Cli, tmp_path: Path) -> None:
    for variables, words in (
        ({"CASEMATE_DATA": str(tmp_path / "none"), "MONGO_URI": "mongodb://127.0.0.1:1"}, "is no directory"),
        ({"MONGO_URI": "mongodb://user:secret@127.0.0.1:1"}, "127.0.0.1"),
        ({"MONGO_URI": "postgres://user:secret@127.0.0.1"}, "MONGO_URI"),
    ):
        done = await local(*IN, env=variables)
        assert words in done.refusal
        assert "secret" not in done.err
