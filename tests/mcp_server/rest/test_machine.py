"""The whole way over REST into a real machine and back."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect

from tests.mcp_server.rest.conftest import Rest, data_of, events, rest_server, shown_until
from tests.waiting import PATIENCE_S
from vmm.fleet import Fleet
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

SMALL = {"image": "minimal", "mem": 512}


@pytest.fixture
async def machines(fleet: Fleet) -> AsyncGenerator[Rest]:
    async with rest_server(fleet) as running:
        yield running


async def test_a_sandbox_lives_from_its_creation_to_its_end(machines: Rest) -> None:
    async with machines.http("alice") as http, machines.http("bob") as bob:
        fields = {"name": "box", "envVars": {"GREETING": "hello"}, "labels": {"team": "red"}, **SMALL}
        made = await http.post("/api/sandboxes", json=fields, timeout=PATIENCE_S)
        assert made.status_code == 201, made.text
        sandbox = made.json()["data"]
        assert sandbox["status"] == "running"
        base = f"/api/sandboxes/{sandbox['id']}"

        ran = data_of(await http.post(f"{base}/exec", json={"command": "echo $GREETING from $(hostname)"}))
        assert ran == {"stdout": "hello from box\n", "stderr": "", "exitCode": 0}
        async with http.stream("POST", f"{base}/exec-stream", json={"command": "seq 3; exit 2"}) as answer:
            found = await events(answer.aiter_lines())
        assert found == [("stdout", "1\n"), ("stdout", "2\n"), ("stdout", "3\n"), ("exit", '{"exitCode": 2}')]

        session = (await http.post(f"{base}/session-exec", json={"action": "create"}, timeout=PATIENCE_S)).json()
        given = {"sessionId": session["sessionId"]}
        for command, shown in (("cd /tmp; A=kept", ""), ("echo $A in $PWD; echo $GREETING", "kept in /tmp\nhello\n")):
            answer = await http.post(f"{base}/session-exec", json={"action": "exec", **given, "command": command})
            assert answer.json() == {"success": True, **given, "output": shown, "exitCode": 0}
        body = {**given, "command": "sleep 1000", "timeout": 1}
        streamed = (await http.post(f"{base}/session-exec-stream", json=body)).text.splitlines()
        assert json.loads(streamed[-1]) == {
            "type": "exit",
            "exitCode": 130,
            "error": "interrupted: it took longer than 1 s",
        }

        content = os.urandom(5_000_000)
        where = {"path": "/root/deep/blob"}
        assert (await http.post(f"{base}/files/upload", params=where, content=content)).status_code == 200
        assert (await http.get(f"{base}/files/download", params=where)).content == content
        for method, path, query in (
            ("POST", "copy", {"from": "/root/deep", "to": "/root/new/copy"}),
            ("POST", "move", {"from": "/root/new/copy/blob", "to": "/root/moved"}),
            ("POST", "chmod", {"path": "/root/moved", "mode": "600"}),
            ("POST", "create", {"path": "/root/a/b"}),
            ("GET", "du", {"path": "/root"}),
            ("GET", "head-tail", {"path": "/etc/passwd", "head": "true", "lines": "1"}),
            ("GET", "stat", {"path": "/root/moved"}),
            ("GET", "search", {"path": "/root", "pattern": "mov*"}),
        ):
            outcome = data_of(await http.request(method, f"{base}/files/{path}", params=query))
            assert outcome["exitCode"] == 0, (path, outcome)
        refused = data_of(await http.request("DELETE", f"{base}/files", params={"path": "/"}))
        assert refused["exitCode"] == 1

        assert (await http.get(f"{base}/metrics")).json()["memoryTotal"] < 600 * 1024 * 1024
        assert [item["name"] for item in (await http.get("/api/sandboxes?labels=team%3Dred")).json()["data"]] == ["box"]
        for path in ("", "/files", "/metrics", "/pty/sessions"):
            assert (await bob.get(base + path)).status_code == 404

        url = f"ws{machines.url.removeprefix('http')}{base}/pty?cols=100&rows=30"
        async with connect(url, additional_headers={"x-who": "alice"}, proxy=None) as socket:
            with anyio.fail_after(PATIENCE_S):
                await shown_until(socket, "# ")
                await socket.send("stty size; printf '%s-%s\\n' on line\n")
                assert "30 100" in await shown_until(socket, "on-line")

        assert (await http.delete(base)).json()["message"] == "Sandbox deleted"
        assert (await http.get(base)).status_code == 404
        assert (await http.post(f"{base}/exec", json={"command": "true"})).status_code == 404


async def test_a_client_that_goes_away_while_it_creates_leaves_a_whole_sandbox_or_none(machines: Rest) -> None:
    async with machines.http("alice") as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/api/sandboxes", json={"name": "orphan", **SMALL}, timeout=0.05)
        with anyio.fail_after(PATIENCE_S):
            while not any(state.get("action") == "sandbox.create" for state in machines.states):
                await anyio.sleep(0.05)
        for sandbox in (await http.get("/api/sandboxes")).json()["data"]:
            assert sandbox["status"] == "running"
            ran = await http.post(f"/api/sandboxes/{sandbox['id']}/exec", json={"command": "hostname"})
            assert data_of(ran)["stdout"] == "orphan\n"


async def in_session(http: httpx.AsyncClient, ref: str, command: str) -> str:
    """What a command prints in the session `work` of a sandbox."""
    body = {"action": "exec", "sessionId": "work", "command": command}
    answer = await http.post(f"/api/sandboxes/{ref}/session-exec", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    assert answer.json()["exitCode"] == 0
    return answer.json()["output"]


async def nonce(http: httpx.AsyncClient, ref: str) -> str:
    """What a program of the sandbox holds in its memory alone."""
    command = "cat /proc/$(cat /run/holder)/environ | tr '\\0' '\\n' | grep ^NONCE="
    ran = data_of(await http.post(f"/api/sandboxes/{ref}/exec", json={"command": command}, timeout=PATIENCE_S))
    return ran["stdout"].strip()


async def test_a_sandbox_sleeps_wakes_is_forked_put_back_and_started_again(machines: Rest, data: Path) -> None:
    async with machines.http("alice") as http, machines.http("bob") as bob:
        made = (await http.post("/api/sandboxes", json={"name": "box", **SMALL}, timeout=PATIENCE_S)).json()["data"]
        base = f"/api/sandboxes/{made['id']}"
        holder = {"command": "echo $$ > /run/holder; exec sleep 1000", "env": {"NONCE": "delta"}}
        assert (await http.post(f"{base}/commands/run", json=holder)).status_code == 200
        assert await nonce(http, "box") == "NONCE=delta"
        work = {"action": "create", "sessionId": "work", "shell": "sh"}
        assert (await http.post(f"{base}/session-exec", json=work, timeout=PATIENCE_S)).status_code == 200
        assert await in_session(http, "box", "cd /tmp; A=kept") == ""

        for verb, message in (("sleep", "Sandbox snapshotted"), ("sleep", "Sandbox snapshotted")):
            answer = await http.post(f"{base}/{verb}", timeout=PATIENCE_S)
            assert (answer.status_code, answer.json()) == (200, {"status": "success", "message": message})
        assert data_of(await http.get(base))["status"] == "snapshotted"
        assert (await http.get(f"{base}/metrics")).status_code == 409
        for path in ("wake", "start", "restart", "sleep", "fork", "snapshots", "restore"):
            assert (await bob.post(f"{base}/{path}", json={"snapshot": "x"})).status_code == 404
        assert data_of(await http.get(base))["status"] == "snapshotted"
        asleep = await http.post(f"{base}/snapshots", json={"name": "asleep"}, timeout=PATIENCE_S)
        assert asleep.status_code == 201, asleep.text
        assert asleep.json()["data"]["sizeBytes"] > 0
        assert (await http.post(f"{base}/wake", timeout=PATIENCE_S)).json()["message"] == "Sandbox restored"
        assert await nonce(http, "box") == "NONCE=delta"
        assert await in_session(http, "box", "echo $A in $(pwd)") == "kept in /tmp\n"

        forked = await http.post(f"{base}/fork", json={"count": 2}, timeout=PATIENCE_S)
        assert forked.status_code == 201, forked.text
        children = forked.json()["data"]
        assert [child["name"] for child in children] == ["box-1", "box-2"]
        for child in children:
            assert await nonce(http, child["id"]) == "NONCE=delta"
            assert await in_session(http, child["id"], "echo $A in $(pwd)") == "kept in /tmp\n"
            assert (await http.delete(f"/api/sandboxes/{child['id']}")).status_code == 200

        await http.post(f"{base}/exec", json={"command": "kill $(cat /run/holder); touch /root/later"})
        back = await http.post(f"{base}/restore", json={"snapshot": "asleep"}, timeout=PATIENCE_S)
        assert (back.status_code, data_of(back)["snapshot"]) == (200, asleep.json()["data"]["id"])
        assert await nonce(http, "box") == "NONCE=delta"
        assert (await http.post(f"{base}/exec", json={"command": "ls /root"})).json()["data"]["stdout"] == ""

        ((process,),) = orphans(data / "instances").values()
        os.kill(process.pid, signal.SIGKILL)
        with anyio.fail_after(PATIENCE_S):
            while data_of(await http.get(base))["status"] != "killed":
                await anyio.sleep(0.05)
        assert (await http.post(f"{base}/sleep")).status_code == 409
        assert (await http.post(f"{base}/fork", json={})).status_code == 409
        assert (await http.post(f"{base}/start", timeout=PATIENCE_S)).json()["message"] == "Sandbox started"
        started = data_of(await http.get(base))
        assert started["status"] == "running"
        assert "snapshot" in started["reason"]
        assert await nonce(http, "box") == "NONCE=delta"
        assert (await http.delete(base)).status_code == 200
        assert (await http.delete("/api/snapshots/asleep")).status_code == 200


async def test_a_killed_sandbox_is_told_with_what_is_lost(machines: Rest, data: Path) -> None:
    async with machines.http("alice") as http:
        made = (await http.post("/api/sandboxes", json={"name": "doomed", **SMALL}, timeout=PATIENCE_S)).json()["data"]
        base = f"/api/sandboxes/{made['id']}"
        async with http.stream("POST", f"{base}/exec-stream", json={"command": "echo on; sleep 60"}) as answer:
            lines = answer.aiter_lines()
            async for line in lines:
                if line == "data:on":
                    break
            (process,) = orphans(data / "instances")[data / "instances" / made["id"]]
            os.kill(process.pid, signal.SIGKILL)
            with anyio.fail_after(PATIENCE_S):
                rest = [line async for line in lines]
        assert "event: exit" in rest
        assert any('"exitCode": -1' in line for line in rest)


async def test_an_output_of_many_megabytes_is_whole_and_survives_a_sleep(machines: Rest) -> None:
    async with machines.http("alice") as http:
        http.timeout = PATIENCE_S
        made = (await http.post("/api/sandboxes", json={"name": "loud", **SMALL})).json()["data"]
        base = f"/api/sandboxes/{made['id']}"
        command = "head -c 15000000 /dev/urandom | base64 | tee /dev/stderr | sha256sum >/root/sum"
        pid = (await http.post(f"{base}/commands/run", json={"command": command})).json()["pid"]
        assert (await http.post(f"{base}/commands/wait", json={"pid": pid})).json()["exitCode"] == 0
        assert (await http.post(f"{base}/sleep")).status_code == 200
        async with http.stream("POST", f"{base}/commands/attach", json={"pid": pid}) as answer:
            found = await events(answer.aiter_lines())
        fields = {"command": "cat /root/sum; base64 </dev/zero | head -c 40000000", "timeout": 600}
        data = data_of(await http.post(f"{base}/exec", json=fields))
        said, _, rest = data["stdout"].partition("\n")
        assert hashlib.sha256("".join(text for name, text in found if name == "stderr").encode()).hexdigest() in said
        line = "A" * 76 + "\n"
        assert rest == (line * (40_000_000 // len(line) + 1))[:40_000_000]
        assert data == {"stdout": data["stdout"], "stderr": "", "exitCode": 0}
        hidden = data_of(await http.post(f"{base}/exec", json={"command": "du -sm / 2>/dev/null; ls -A /disk"}))
        assert "No such file" in hidden["stderr"]
        assert (await http.delete(base)).status_code == 200
