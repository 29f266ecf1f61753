"""The command line on the server's host: with and without a running server, and the operator's commands."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server.app import open_services
from mcp_server.data_dir_lock import lock_data_dir
from mcp_server.settings import Settings
from tests.mcp_server.cli.rig import Cli
from tests.mcp_server.edge import serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server_on(data: Path) -> AsyncGenerator[Cli]:
    """Run a server on a data directory and yield its operator's command line."""
    data.mkdir(exist_ok=True)
    async with (
        open_services(Settings(data=data, network_way="user")) as services,
        serving(services.web(), {}, services.run) as running,
    ):
        services.lock.announce(running.url)
        yield Cli(url="", key="", keys={}, cwd=data.parent)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncGenerator[Cli]:
    async with server_on(tmp_path / "data") as cli:
        yield cli


async def test_the_local_key_is_accepted_by_the_server_of_the_data_directory(local: Cli) -> None:
    me = (await local("user", "me", "--json")).json
    assert (me["email"], me["operator"], me["role"]) == ("local@localhost", True, "owner")
    assert re.search(r"^email +local@localhost$", (await local("user", "me")).text, re.MULTILINE)
    file = (await local("key", "path", "--json")).json["path"]
    assert file == (await local("key", "path")).text.strip() == str(local.cwd / "data" / "key")
    assert (await local("--key-file", file, "sandbox", "list", "--json")).json == []


async def test_a_key_is_created_printed_once_limited_to_its_scope_and_revoked(local: Cli) -> None:
    made = await local("key", "create", "for reading", "--scope", "read", "--expires", "30d")
    key = made.text.strip()
    assert key.startswith("cm_")
    assert "shown only once" in made.err
    reader = local.using(key=key)
    assert (await reader("sandbox", "list", "--json")).json == []
    assert "This needs the scope run" in (await reader("sandbox", "create", "box")).refusal

    listed = await local("key", "list")
    assert re.search(r"for reading +cm_\S+ +read +yes ", listed.text)
    assert key not in listed.text
    (found,) = [one for one in (await local("key", "list", "--json")).json if one["name"] == "for reading"]
    assert found["scopes"] == ["read"]
    assert found["expiresAt"] > found["createdAt"]

    whole = (await local("key", "create", "for programs", "--json")).json
    assert whole["plainKey"].startswith("cm_")
    assert (await local("key", "revoke", "for programs", "--json")).json == {"revoked": whole["keyId"]}
    assert (await local("key", "revoke", found["id"])).status == 0
    assert "does not accept the key" in (await reader("sandbox", "list")).refusal
    assert "There is no key 'for reading'" in (await local("key", "revoke", "for reading")).refusal


async def test_users_are_invited_register_and_become_members(local: Cli) -> None:
    made = await local("invite", "create", "--email", "ann@example.org", "--expires", "2h")
    code = made.text.strip()
    (invitation,) = (await local("invite", "list", "--json")).json
    assert (invitation["email"], invitation["used"]) == ("ann@example.org", False)
    assert code not in (await local("invite", "list")).text
    async with local.using(url=await served_at(local)).http() as http:
        body = {"name": "Ann", "email": "ann@example.org", "invitation": code}
        assert (await http.post("/api/register", json=body)).status_code == 201
    assert [one["used"] for one in (await local("invite", "list", "--json")).json] == [True]
    assert {one["email"] for one in (await local("user", "list", "--json")).json} == {
        "local@localhost",
        "ann@example.org",
    }
    assert re.search(r"Ann +ann@example.org +no ", (await local("user", "list")).text)

    assert (await local("member", "add", "ann@example.org", "--role", "member")).status == 0
    assert re.search(r"Ann +ann@example.org +member ", (await local("member", "list")).text)
    assert (await local("member", "remove", "ANN@example.org")).status == 0
    assert [one["email"] for one in (await local("member", "list", "--json")).json] == ["local@localhost"]
    assert "no member 'ann@example.org'" in (await local("member", "remove", "ann@example.org")).refusal

    second = (await local("invite", "create", "--json")).json
    assert (await local("invite", "revoke", second["id"])).status == 0
    assert "casemate: " in (await local("invite", "revoke", second["id"])).refusal


async def served_at(cli: Cli) -> str:
    """Return the address of the data directory's server."""
    return (cli.cwd / "data" / "server.lock").read_text()


async def test_quotas_are_shown_set_and_reset(local: Cli) -> None:
    org = (await local("user", "me", "--json")).json["orgId"]
    before = (await local("quota", "show", "--json")).json
    assert before["orgId"] == org
    assert before["used"]["sandboxes"] == 0
    changed = (await local("quota", "set", org, "--sandboxes", "3", "--mem", "4096", "--snapshots", "7", "--json")).json
    assert changed["limits"] == before["limits"] | {"sandboxes": 3, "mem": 4096, "snapshots": 7}
    shown = (await local("quota", "show", org)).text
    assert re.search(r"^sandboxes +0 +3 +its own$", shown, re.MULTILINE)
    assert re.search(r"^snapshots +0 +7 +its own$", shown, re.MULTILINE)
    back = (await local("quota", "set", org, "--sandboxes", "default", "--json")).json
    assert back["limits"] == before["limits"] | {"mem": 4096, "snapshots": 7}
    assert "f" * 24 in (await local("quota", "show", "f" * 24)).refusal


async def test_the_audit_log_has_every_call_including_refused_ones(local: Cli) -> None:
    stranger = local.using(key="cm_" + "x" * 43)
    assert "does not accept the key" in (await stranger("sandbox", "list")).refusal
    assert "No records found" in (await local("audit", "--sandbox", "other")).err
    assert (await local("sandbox", "get", "nobody")).status == 2
    found: list[dict[str, Any]] = []
    with anyio.fail_after(PATIENCE_S):
        while not found:
            found = (await local("audit", "--action", "sandbox.get", "--since", "1h", "--json")).json
    assert [(one["sandbox"], one["decision"], one["status"]) for one in found] == [("nobody", "refused", 404)]
    table = await local("audit", "--sandbox", "nobody")
    assert re.search(r" rest +sandbox.get +nobody +refused +404 ", table.text)
    assert [one["sandbox"] for one in (await local("audit", "--limit", "1", "--action", "sandbox.get", "--json")).json]
    assert "is not a valid time" in (await local("audit", "--since", "yesterday")).refusal


async def test_the_audit_log_is_followed_line_by_line(local: Cli) -> None:
    async with local.started("audit", "-f", "--json", "--action", "sandbox.get") as process:
        assert process.stdout is not None
        assert (await local("sandbox", "get", "nobody")).status == 2
        with anyio.fail_after(PATIENCE_S):
            record = json.loads(await process.stdout.receive())
        assert record["sandbox"] == "nobody"


async def test_the_same_commands_work_without_a_server(tmp_path: Path) -> None:
    async with server_on(tmp_path / "data") as local:
        assert (await local("key", "create", "kept")).status == 0
    assert "kept" in (await local("key", "list")).text
    assert (await local("sandbox", "list", "--json")).json == []
    assert "There is no sandbox 'box'" in (await local("sandbox", "exec", "box", "--", "true")).refusal
    assert "sandbox.list" in (await local("audit")).text
    other = await local.using(key="cm_" + "x" * 43)("sandbox", "list")
    assert "does not accept the key from CASEMATE_API_KEY" in other.refusal


async def test_a_command_is_refused_while_another_uses_the_data_directory(tmp_path: Path) -> None:
    async with server_on(tmp_path / "data") as local:
        pass
    with lock_data_dir(tmp_path / "data"):
        assert "Another Casemate uses" in (await local("sandbox", "list")).refusal


async def test_an_unreadable_key_file_is_reported(tmp_path: Path) -> None:
    local = Cli(url="", key="", keys={}, cwd=tmp_path)
    (tmp_path / "data" / "key").mkdir(parents=True)
    assert "casemate: key file" in (await local("sandbox", "list")).refusal


async def test_a_template_that_no_sandbox_may_have_is_refused_by_name(local: Cli) -> None:
    for wrong, named in ((("1/1024", "--image", "nix"), "image must be "), (("9/1024",), "cpu must be ")):
        refused = await local("template", "prewarm", "--size", *wrong)
        assert refused.status == 2
        assert named in refused.err
