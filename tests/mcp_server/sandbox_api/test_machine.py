"""Sandbox-api on real machines: what only a guest with its own users and files can show."""

from __future__ import annotations

import pytest

from tests.mcp_server.edge import Edge

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
