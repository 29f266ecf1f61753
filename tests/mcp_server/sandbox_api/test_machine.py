"""Sandbox-api on real machines: what only a guest with its own users and files can show."""

from __future__ import annotations

import pytest

from mcp_server.sandbox_api.names import sandbox_name, volume_name
from tests.mcp_server.edge import Edge
from tests.mcp_server.host import ALICE
from vmm.fleet import Fleet

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


async def test_a_session_is_a_machine_of_its_own_for_an_ordinary_user(machines: Edge) -> None:
    async with machines.http("alice") as alice:
        line = "id -u; pwd; echo $HOME $SANDBOX_SESSION_ID > note; cat note"
        wanted = {"command": line, "session_id": "my-session-1"}
        answer = await alice.post("/execute", json=wanted)
        assert answer.status_code == 200, answer.text
        done = answer.json()
        assert done["stdout"].split() == ["1000", "/workspace", "/home/sandbox", "my-session-1"], done
        assert (done["exit_code"], done["stderr"], done["timed_out"], len(done["container_id"])) == (0, "", False, 12)


async def test_its_user_cannot_become_root_nor_start_processes_without_end(machines: Edge) -> None:
    async with machines.http("alice") as alice:
        line = "grep NoNewPrivs /proc/self/status; touch /etc/x /usr/x; ulimit -u"
        done = (await alice.post("/execute", json={"command": line, "session_id": "s"})).json()
        assert done["stdout"].split() == ["NoNewPrivs:", "1", "50"], done
        assert done["stderr"].count("Permission denied") == 2


async def test_files_are_the_users_own_and_the_roots_are_out_of_reach(machines: Edge) -> None:
    content = "/sessions/s/workspace/content"
    async with machines.http("alice") as alice:
        assert (await alice.put(content, params={"path": "a/b"}, content=b"one")).status_code == 204
        line = "stat -c %u a a/b; echo two >> a/b; ln -s /etc/shadow s; ln -s /etc out"
        done = (await alice.post("/execute", json={"command": line, "session_id": "s"})).json()
        assert (done["stdout"], done["exit_code"]) == ("1000\n1000\n", 0), done
        assert (await alice.get(content, params={"path": "a/b"})).json()["content"] == "onetwo\n"
        for path in ("s", "out/hostname"):
            refused = await alice.get(content, params={"path": path})
            assert refused.json()["detail"].startswith("Path escapes workspace"), refused.text


async def test_kept_files_outlive_the_sandbox_of_their_session_until_the_session_is_deleted(
    keepers: Edge, fleet: Fleet
) -> None:
    content, file = "/sessions/s/workspace/content", {"path": "a"}
    async with keepers.http("alice") as alice:
        assert (await alice.put(content, params=file, content=b"kept")).status_code == 204
        first = (await alice.get("/sessions/s")).json()["container_id"]
        await fleet.sandboxes.delete(ALICE, sandbox_name("s"))
        assert [one["name"] for one in (await alice.get("/sessions/s/workspace")).json()["entries"]] == ["a"]
        line = {"command": "cat a; id -u; stat -c %u .", "session_id": "s"}
        done = (await alice.post("/execute", json=line)).json()
        assert (done["stdout"], done["exit_code"]) == ("kept1000\n1000\n", 0), done
        assert (await alice.get("/sessions/s")).json()["container_id"] != first
        assert (await alice.delete("/sessions/s")).status_code == 200
        assert await fleet.volumes.list(ALICE) == ()
        assert (await alice.get(content, params=file)).status_code == 404
        assert (await alice.get("/sessions/s")).status_code == 404


async def test_the_tool_deletes_the_kept_files_of_a_session_without_a_sandbox(keepers: Edge, fleet: Fleet) -> None:
    async with keepers.http("alice") as alice:
        assert (await alice.post("/sessions", json={"session_id": "s"})).status_code == 200
    await fleet.sandboxes.delete(ALICE, sandbox_name("s"))
    assert [one.name for one in await fleet.volumes.list(ALICE)] == [volume_name("s")]
    async with keepers.client("alice", path="/mcp") as client:
        await client.call_tool("delete_session", {"session_id": "s"})
    assert await fleet.volumes.list(ALICE) == ()
