"""Terminals over REST: sessions in the guest, to open, list, type into, read, resize and close."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
from pydantic import Field

from auth.roles import Scope
from mcp_server.wire import timestamp
from vmm.errors import InvalidInput, NotFound
from vmm.guest.values import MIB

from .body import WireModel, parse_body
from .contract import GUEST, contract
from .endpoint import Endpoint
from .envelope import success
from .screen_text import from_offset
from .shapes.envelope import Done, Enveloped
from .shapes.terminals import BufferObject, NewSession, SessionList, SessionObject

if TYPE_CHECKING:
    from collections.abc import Generator

    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import TerminalInfo

_MAX_SIDE = 1000
_LINE = 100_000
_PROMPT_S = 2.0
_PROMPTS = (b"#", b"$", b"%", b">")
_TAIL = 16
_AFTER_PROMPT_S = 0.05
_AFTER_OUTPUT_S = 0.5
"""A shell that greets may take a while until its prompt."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SessionRequest(WireModel):
    """A terminal to open, by default with a login shell in it."""

    cols: int = Field(default=80, ge=1, le=_MAX_SIDE)
    rows: int = Field(default=24, ge=1, le=_MAX_SIDE)
    command: str = ""
    argv: list[str] = Field(default_factory=list[str])
    cwd: str = ""
    env: dict[str, str] = Field(default_factory=dict[str, str])

    def line(self) -> str:
        """Build the shell line to run; empty for a login shell.

        Raises:
            InvalidInput: Both `command` and `argv` are given.
        """
        if self.command.strip() and self.argv:
            raise InvalidInput("command and argv are both given", hint="Give one of them")
        return shlex.join(self.argv) if self.argv else self.command


class Line(WireModel):
    """A line to type."""

    command: str = Field(max_length=_LINE)


class Size(WireModel):
    """A terminal's new size."""

    cols: int = Field(ge=1, le=_MAX_SIDE)
    rows: int = Field(ge=1, le=_MAX_SIDE)


class ViewerCount:
    """The number of sockets that show each terminal, on this server."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def at(self, sandbox_id: str, terminal_id: str) -> Generator[None]:
        """Count a viewer for the duration of a block."""
        key = (sandbox_id, terminal_id)
        self._counts[key] += 1
        try:
            yield
        finally:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    def count(self, sandbox_id: str, terminal_id: str) -> int:
        """Return the number of viewers."""
        return self._counts[sandbox_id, terminal_id]


class TerminalRoutes:
    """The routes for terminals, except the sockets."""

    def __init__(self, fleet: Fleet, viewers: ViewerCount) -> None:
        self._fleet = fleet
        self._viewers = viewers

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        all_ = "/api/sandboxes/{id}/pty/sessions"
        one = f"{all_}/{{session}}"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="POST", path=all_, handler=self.create, scope=run, action="terminal.create"),
            Endpoint(method="GET", path=all_, handler=self.list, scope=read, action="terminal.list"),
            Endpoint(method="DELETE", path=one, handler=self.delete, scope=run, action="terminal.delete"),
            Endpoint(method="POST", path=f"{one}/execute", handler=self.execute, scope=run, action="terminal.execute"),
            Endpoint(method="GET", path=f"{one}/buffer", handler=self.buffer, scope=read, action="terminal.buffer"),
            Endpoint(method="POST", path=f"{one}/resize", handler=self.resize, scope=run, action="terminal.resize"),
        ]

    @contract(Enveloped[NewSession], body=SessionRequest, refusals=GUEST, yields={"session": "/data/sessionId"})
    async def create(self, request: Request, who: Principal) -> Response:
        """Open a terminal."""
        wanted = await parse_body(request, SessionRequest)
        owner, ref, line = who.org_id, request.path_params["id"], wanted.line()
        info = await self._fleet.guest.terminal_open(
            owner, ref, cols=wanted.cols, rows=wanted.rows, command=line, cwd=wanted.cwd.strip(), env=wanted.env
        )
        if not line.strip():
            await prompted(self._fleet, owner, ref, info.terminal_id)
        return success("Session created", NewSession(sessionId=info.terminal_id, createdAt=timestamp(info.started_ms)))

    @contract(Enveloped[SessionList], refusals=GUEST)
    async def list(self, request: Request, who: Principal) -> Response:
        """List the terminals that were opened and not closed."""
        sandbox = await self._fleet.sandboxes.get(who.org_id, request.path_params["id"])
        found = await self._fleet.guest.terminals(who.org_id, sandbox.id)
        sessions = [session_object(info, self._viewers.count(sandbox.id, info.terminal_id)) for info in found]
        return success("Sessions retrieved", SessionList(sessions=sessions))

    @contract(Done, refusals=GUEST)
    async def delete(self, request: Request, who: Principal) -> Response:
        """Close a terminal and end its programs."""
        await self._fleet.guest.terminal_close(who.org_id, request.path_params["id"], terminal_of(request))
        return success("Session deleted")

    @contract(Done, body=Line, refusals=GUEST)
    async def execute(self, request: Request, who: Principal) -> Response:
        """Type a line; its output appears in the buffer and on the sockets."""
        wanted = await parse_body(request, Line)
        if not wanted.command.strip():
            raise InvalidInput("Command is required", hint="Give a line to type")
        data = f"{wanted.command.rstrip()}\r".encode()
        await self._fleet.guest.terminal_input(who.org_id, request.path_params["id"], terminal_of(request), data)
        return success("Command sent")

    @contract(Enveloped[BufferObject], refusals=GUEST)
    async def buffer(self, request: Request, who: Principal) -> Response:
        """Return the output that is still kept: the last MiB."""
        output = await self._fleet.guest.terminal_read(
            who.org_id, request.path_params["id"], terminal_of(request), max_bytes=MIB
        )
        text = from_offset(output.output.offset, output.output.data).decode("utf-8", "replace")
        return success("Buffer retrieved", BufferObject(success=True, output=text))

    @contract(Done, body=Size, refusals=GUEST)
    async def resize(self, request: Request, who: Principal) -> Response:
        """Change a terminal's size."""
        wanted = await parse_body(request, Size)
        await self._fleet.guest.terminal_resize(
            who.org_id, request.path_params["id"], terminal_of(request), cols=wanted.cols, rows=wanted.rows
        )
        return success("Terminal resized")


async def prompted(fleet: Fleet, owner: str, ref: str, terminal_id: str) -> None:
    """Wait for the prompt of a new login shell: for its first output and the pause behind it, at most 2 s.

    VoidRun's clients take the next prompt that they see for the end of the command that they have typed.
    """
    end = anyio.current_time() + _PROMPT_S
    offset, shown, pause_s = 0, b"", _PROMPT_S
    while (left_s := end - anyio.current_time()) > 0:
        found = await fleet.guest.terminal_read(
            owner, ref, terminal_id, offset=offset, wait_ms=int(min(pause_s, left_s) * 1000)
        )
        if not found.output.data:
            return
        offset, shown = found.output.next_offset, (shown + found.output.data)[-_TAIL:]
        pause_s = _AFTER_PROMPT_S if shown.rstrip().endswith(_PROMPTS) else _AFTER_OUTPUT_S


def terminal_of(connection: HTTPConnection) -> str:
    """Read the terminal's id from the path.

    Raises:
        NotFound: The text is not a possible id.
    """
    name: str = connection.path_params["session"]
    if not _ID.fullmatch(name):
        raise NotFound(f"There is no terminal {name[:80]!r}", hint="List the sessions, or create one")
    return name


def session_object(info: TerminalInfo, clients: int) -> SessionObject:
    """Convert a terminal to its JSON form."""
    shown: SessionObject = {
        "id": info.terminal_id,
        "createdAt": timestamp(info.started_ms),
        "clients": clients,
        "alive": info.alive,
        "command": info.command,
        "cols": info.cols,
        "rows": info.rows,
    }
    if info.exit_code is not None:
        shown["exitCode"] = info.exit_code
    return shown
