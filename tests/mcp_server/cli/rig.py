"""Runs `casemate` as a user does: as a separate process, with pipes or on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pyte
from anyio.abc import Process

from tests.mcp_server.cli.forked import run_forked
from tests.mcp_server.edge import NO_TLS
from tests.waiting import PATIENCE_S

CASEMATE = Path(sys.executable).parent / "casemate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a command."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        assert self.status == 0, self
        return self.out.decode()

    @property
    def json(self) -> Any:
        assert self.status == 0, self
        return json.loads(self.out)

    @property
    def object(self) -> Any:
        """The JSON that it printed, whatever its status."""
        return json.loads(self.out)

    @property
    def refusal(self) -> str:
        """The one-line error message of a command that failed."""
        assert self.status in {2, 75}, self
        assert self.out == b""
        (line,) = self.err.splitlines()
        assert line.startswith("casemate: ")
        return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Cli:
    """`casemate`, or `voidbox`, with a server, a key and a working directory."""

    url: str
    key: str
    keys: Mapping[str, str]
    cwd: Path
    program: str = "casemate"

    def http(self) -> httpx.AsyncClient:
        """Return an HTTP client for the same server and key."""
        return httpx.AsyncClient(base_url=self.url, headers={"x-api-key": self.key}, timeout=PATIENCE_S, verify=NO_TLS)

    def using(self, url: str = "", key: str = "") -> Cli:
        return replace(self, url=url or self.url, key=key or self.key)

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CASEMATE_")}
        named = {"CASEMATE_URL": self.url, "CASEMATE_API_KEY": self.key, "CASEMATE_DATA": str(self.cwd / "data")}
        fixed = {"CASEMATE_NETWORK_WAY": "user", "TERM": "xterm", "COLUMNS": "200"}
        return kept | {name: value for name, value in named.items() if value} | fixed

    async def __call__(
        self, *arguments: str | Path, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run a command to its end."""
        with anyio.fail_after(PATIENCE_S):
            done = await run_forked(
                [str(argument) for argument in arguments],
                stdin=stdin or b"",
                env=self.env | dict(env or {}),
                cwd=self.cwd,
                program=self.program,
            )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert self.key == "" or self.key.encode() not in done.stderr
        return Result(status=done.returncode, out=done.stdout, err=done.stderr.decode())

    async def piped(self, *arguments: str, into: str = "cat", source: str = "") -> Result:
        """Run a command in a shell pipeline; return its own status and the output of the last part."""
        before = f"{source} | " if source else ""
        script = f'{before}"$0" "$@" | {into}; exit "${{PIPESTATUS[{int(bool(source))}]}}"'
        with anyio.fail_after(PATIENCE_S):
            done = await anyio.run_process(
                ["bash", "-c", script, CASEMATE, *arguments],
                stdin=subprocess.DEVNULL,
                env=self.env,
                cwd=self.cwd,
                check=False,
            )
        return Result(status=done.returncode, out=done.stdout, err=done.stderr.decode())

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncGenerator[Process]:
        """Run a command and kill it when the block ends."""
        process = await anyio.open_process([CASEMATE, *arguments], env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.aclose()

    @asynccontextmanager
    async def on_terminal(self, *arguments: str) -> AsyncGenerator[Terminal]:
        """Run a command on a new terminal of 132 columns and 24 rows and kill it when the block ends."""
        master, slave = pty.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 132, 0, 0))
            process = await anyio.open_process(
                [CASEMATE, *arguments],
                env=self.env | {"COLUMNS": ""},
                cwd=self.cwd,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
            try:
                yield Terminal(master, slave, process)
            finally:
                with anyio.CancelScope(shield=True):
                    if process.returncode is None:
                        process.kill()
                    await process.aclose()
        finally:
            os.close(slave)
            os.close(master)


class Terminal:
    """A terminal on which a command runs: types keys and reads the screen."""

    def __init__(self, master: int, slave: int, process: Process) -> None:
        self._master = master
        self._slave = slave
        self.process = process
        self._screen = pyte.Screen(132, 24)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        self.settings = termios.tcgetattr(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        self._screen.resize(rows, cols)
        # The command's session has no controlling terminal here, so the kernel does not send this signal.
        self.process.send_signal(signal.SIGWINCH)

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & termios.ICANON

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self._slave) == self.settings

    @property
    def shown(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    async def sees(self, text: str) -> None:
        """Wait until a text is on the screen."""
        with anyio.move_on_after(PATIENCE_S) as limit:
            while text not in self.shown:
                await anyio.wait_readable(self._master)
                self._read()
        assert not limit.cancelled_caught, f"{text!r} is not on the screen:\n{self.shown}"

    async def ended(self) -> int:
        """Wait for the command to end and return its status."""
        with anyio.fail_after(PATIENCE_S):
            status = await self.process.wait()
        while True:
            with anyio.move_on_after(0.1) as silence:
                await anyio.wait_readable(self._master)
            if silence.cancelled_caught:
                return status
            self._read()

    def _read(self) -> None:
        data = os.read(self._master, 65536)
        self.written += data
        self._stream.feed(data)
