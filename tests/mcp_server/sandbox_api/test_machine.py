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
