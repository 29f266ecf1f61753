"""`casemate store copy`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.app import open_services
from mcp_server.data_dir_lock import lock_data_dir
from mcp_server.settings import Settings
from tests.mcp_server.cli.rig import Cli

pytestmark = pytest.mark.anyio

TO_MONGODB = ("store", "copy", "--from", "sqlite", "--to", "mongodb")
TO_SQLITE = ("store", "copy", "--from", "mongodb", "--to", "sqlite")


@pytest.fixture
async def local(tmp_path: Path) -> Cli:
    """The command line on a data directory that a server has initialised."""
    (tmp_path / "data").mkdir()
    async with open_services(Settings(data=tmp_path / "data", network_way="user")):
        pass
    return Cli(url="", key="", keys={}, cwd=tmp_path)


async def test_everything_is_copied_to_mongodb_and_back(local: Cli, mongo_uri: str, mongo_name: str) -> None:
    named = {"MONGO_URI": mongo_uri, "MONGO_DB": mongo_name}
    copied = (await local(*TO_MONGODB, "--json", env=named)).json["copied"]
    assert copied["users"] == copied["organisations"] == copied["api_keys"] == 1
    assert "users" in (await local(*TO_MONGODB, env=named)).text
    assert (await local("user", "me", "--json", env=named)).json["email"] == "local@localhost"

    (local.cwd / "data" / "casemate.db").rename(local.cwd / "data" / "before.db")
    assert (await local(*TO_SQLITE, "--json", env=named)).json["copied"]["users"] == 1
    assert (await local("user", "me", "--json")).json["email"] == "local@localhost"


async def test_a_store_in_use_is_not_copied(local: Cli) -> None:
    with lock_data_dir(local.cwd / "data"):
        refusal = (await local(*TO_MONGODB, env={"MONGO_URI": "mongodb://127.0.0.1:1"})).refusal
    assert "Another Casemate uses" in refusal


async def test_invalid_stores_are_refused_without_printing_the_address(local: Cli, tmp_path: Path) -> None:
    for variables, words in (
        ({"CASEMATE_DATA": str(tmp_path / "none"), "MONGO_URI": "mongodb://127.0.0.1:1"}, "is not a directory"),
        ({"MONGO_URI": "mongodb://user:secret@127.0.0.1:1"}, "127.0.0.1"),
        ({"MONGO_URI": "postgres://user:secret@127.0.0.1"}, "MONGO_URI"),
    ):
        done = await local(*TO_MONGODB, env=variables)
        assert words in done.refusal
        assert "secret" not in done.err
