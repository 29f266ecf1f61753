"""One environment, whatever the surface: a sandbox's variables reach all that runs in it, however it is started."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect

from tests.mcp_server.edge import Edge, Tools
from tests.mcp_server.rest.conftest import events
from tests.mcp_server.test_end_to_end import create

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PATH = "/root/bin:/usr/local/bin:/usr/bin:/bin"
ENV = {"WORD": "set here", "PYTHONPATH": "/root/lib", "PATH": PATH, "HISTSIZE": "7"}
SEEN = f"<set here|/root/lib|{PATH}|7|a tool|a module>"

HELPED = "import helper; print(helper.NAME)"
SHELL = f"""printf '<%s>\\n' "$WORD|$PYTHONPATH|$PATH|$HISTSIZE|$(tool)|$(python3 -c '{HELPED}')" """
PYTHON = """
import os, subprocess, helper
names = [os.environ[name] for name in ("WORD", "PYTHONPATH", "PATH", "HISTSIZE")]
print("<" + "|".join([*names, subprocess.check_output("tool", text=True).strip(), helper.NAME]) + ">")
"""
JAVASCRIPT = f"""
const {{execFileSync}} = require("child_process");
const {{WORD, PYTHONPATH, PATH, HISTSIZE}} = process.env;
const programs = [["tool"], ["python3", "-c", "{HELPED}"]];
const ran = programs.map(([program, ...more]) => `${{execFileSync(program, more)}}`.trim());
console.log(`<${{[WORD, PYTHONPATH, PATH, HISTSIZE, ...ran].join("|")}}>`);
"""
TYPESCRIPT = JAVASCRIPT.replace("const ran", "const ran: string[]")

Look = Callable[[], Awaitable[str]]


class Surfaces:
    """Every way to run something in a sandbox; each gives all that was shown."""

    def __init__(self, server: Edge, box: Tools, http: httpx.AsyncClient) -> None:
        self._server = server
        self._box = box
        self._http = http
        self._base = f"/api/sandboxes/{box.sandbox}"

    def all(self) -> dict[str, Look]:
        """The ways by their names."""
        shell = {"command": SHELL, "timeout": 60}
        return {
            "execute_command": lambda: self._box("execute_command", command=SHELL, wait=50),
            "run_code python": lambda: self._box("run_code", code=PYTHON, wait=50),
            "run_code javascript": lambda: self._box("run_code", code=JAVASCRIPT, language="javascript", wait=50),
            "run_code typescript": lambda: self._box("run_code", code=TYPESCRIPT, language="typescript", wait=50),
            "run_code bash": lambda: self._box("run_code", code=SHELL, language="bash", wait=50),
            "run_background_command": self.background,
            "terminal_open": self.terminal,
            "terminal_open with a command": self.terminal_with_a_command,
            "exec": lambda: self.post("exec", shell),
            "exec with arguments": lambda: self.post("exec", {"command": "bash", "args": ["-c", SHELL], "timeout": 60}),
            "exec-stream": self.stream,
            "commands/run": self.run,
            "pty session": self.session,
            "pty socket": self.socket,
        }

    async def background(self) -> str:
        started = await self._box("run_background_command", command=SHELL)
        pid = int(started.split("pid ")[1].split(".")[0])
        return await self.until(lambda: self._box("read_process_output", pid=pid, wait=5))

    async def terminal(self) -> str:
        terminal = (await self._box("terminal_open", cols=200)).split()[1]
        await self._box("terminal_send", terminal_id=terminal, text=SHELL, keys=["enter"])
        return await self.screen(terminal)

    async def terminal_with_a_command(self) -> str:
        return await self.screen((await self._box("terminal_open", cols=200, command=SHELL)).split()[1])

    async def screen(self, terminal: str) -> str:
        return await self.until(
            lambda: self._box("terminal_snapshot", terminal_id=terminal, wait=5, pattern="a module>")
        )

    async def post(self, path: str, body: object) -> str:
        answer = await self._http.post(f"{self._base}/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return json.dumps(answer.json(), ensure_ascii=False)

    async def stream(self) -> str:
        async with self._http.stream("POST", f"{self._base}/exec-stream", json={"command": SHELL}) as answer:
            return "\n".join(text for _, text in await events(answer.aiter_lines()))

    async def run(self) -> str:
        pid = json.loads(await self.post("commands/run", {"command": SHELL}))["pid"]
        async with self._http.stream("POST", f"{self._base}/commands/attach", json={"pid": pid}) as answer:
            return "\n".join(text for _, text in await events(answer.aiter_lines()))

    async def session(self) -> str:
        made = json.loads(await self.post("pty/sessions", {"cols": 200}))["data"]["sessionId"]
        await self.post(f"pty/sessions/{made}/execute", {"command": SHELL})

        async def buffer() -> str:
            return (await self._http.get(f"{self._base}/pty/sessions/{made}/buffer")).json()["data"]["output"]

        return await self.until(buffer)

    async def socket(self) -> str:
        url = f"{self._server.url.replace('http', 'ws')}{self._base}/pty?cols=200"
        headers = {"x-api-key": self._server.keys["alice"]}
        async with connect(url, additional_headers=headers, proxy=None) as socket:
            await socket.send(f"{SHELL}\r")
            shown = ""

            async def more() -> str:
                nonlocal shown
                shown += str(await socket.recv())
                return shown

            return await self.until(more)

    async def until(self, look: Look) -> str:
        """What is shown once it is all there, or after long enough, so that the table says what there was."""
        shown = ""
        with anyio.move_on_after(60):
            while "a module>" not in (shown := await look()):
                await anyio.lowlevel.checkpoint()
        return shown


async def test_a_sandboxs_variables_reach_all_that_runs_in_it(server: Edge) -> None:
    async with server.client("alice") as client, server.http("alice") as http:
        http.timeout = 100
        await create(client, "box", image="code", mem=1024, envVars=ENV)
        box = Tools(client)
        await box("write_file", path="/root/lib/helper.py", content='NAME = "a module"\n')
        await box("write_file", path="/root/bin/tool", content="#!/bin/sh\necho a tool\n")
        await box("execute_command", command="chmod +x /root/bin/tool")
        found = {name: await look() for name, look in Surfaces(server, box, http).all().items()}
    lines = {
        name: re.findall(r"<set [^<>$]*>|<[^<>$]*a module>", shown)[-1:] or [shown] for name, shown in found.items()
    }
    assert lines == {name: [SEEN] for name in found}
