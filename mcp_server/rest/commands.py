"""Running commands over REST: `exec`, `exec-stream`, and background commands in VoidRun's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import structlog
from pydantic import Field
from starlette.responses import JSONResponse

from auth.roles import Scope
from mcp_server.audit.entry import noted
from mcp_server.wire import timestamp
from vmm.errors import CasemateError, InvalidInput, LinkTimeout
from vmm.guest.values import KIB, Command

from .body import WireModel, parse_body
from .endpoint import Endpoint
from .envelope import success
from .event_stream import EventStream
from .streaming import Streamed, while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import Captured, Outcome, ProcessInfo

    from .streaming import Answer

_KEEP_HEAD = 256 * KIB
_KEEP_TAIL = 1024 * KIB
_COMMAND_LENGTH = 100_000
_TIMEOUT_S = 30
_TIMEOUT_MOST_S = 86_400
_BACKGROUND_MOST_S = 7 * 86_400
_GRACE_MS = 10_000
_ROUND_MS = 300_000
_END_S = 20
_KILL = 9
_log = structlog.stdlib.get_logger("casemate.rest")


class CommandWish(WireModel):
    """A command to run. With `args` it is a program that gets them, without a shell line.

    `binary` asks for events with bytes in place of lines.
    """

    command: str
    args: list[str] = Field(default_factory=list[str])
    timeout: float = 0
    env: dict[str, str] = Field(default_factory=dict[str, str])
    cwd: str = ""
    binary: bool = False

    def program(self, timeout_s: float) -> Command:
        """The command for the guest.

        Raises:
            InvalidInput: It is empty or too long.
        """
        if not self.command.strip():
            raise InvalidInput("Command is required", hint="Give a shell command line, such as ls -la")
        if len(self.command) > _COMMAND_LENGTH:
            raise InvalidInput(
                f"Command exceeds maximum length: {len(self.command)} characters",
                hint=f"At most {_COMMAND_LENGTH}: upload a script and run that",
            )
        return Command(
            shell=None if self.args else self.command,
            argv=(self.command.strip(), *self.args) if self.args else (),
            cwd=self.cwd.strip(),
            env=self.env,
            timeout_ms=int(timeout_s * 1000),
        )


class ProcessWish(WireModel):
    """A background command that something is done with: it is signalled, or its output sent."""

    pid: int = Field(ge=1, le=2**31 - 1)
    signal: int = Field(default=_KILL, ge=1, le=64)
    binary: bool = False
    follow: bool = True


class CommandRoutes:
    """The routes that run commands in a sandbox."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """The routes of this module."""
        base = "/api/sandboxes/{id}"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="POST", path=f"{base}/exec", handler=self.exec, scope=run, action="sandbox.exec"),
            Endpoint(
                method="POST", path=f"{base}/exec-stream", handler=self.stream, scope=run, action="sandbox.exec_stream"
            ),
            Endpoint(method="POST", path=f"{base}/commands/run", handler=self.run, scope=run, action="command.run"),
            Endpoint(method="GET", path=f"{base}/commands/list", handler=self.list, scope=read, action="command.list"),
            Endpoint(method="POST", path=f"{base}/commands/kill", handler=self.kill, scope=run, action="command.kill"),
            Endpoint(
                method="POST", path=f"{base}/commands/attach", handler=self.attach, scope=read, action="command.attach"
            ),
            Endpoint(method="POST", path=f"{base}/commands/wait", handler=self.wait, scope=read, action="command.wait"),
        ]

    async def exec(self, request: Request, who: Principal) -> Response:
        """Run a command and answer with what it wrote; a client that goes away ends it."""
        wish = await parse_body(request, CommandWish)
        timeout_s = _foreground(wish.timeout)
        program = wish.program(timeout_s)
        async with while_connected(request.receive):
            outcome = await self._fleet.exec(
                who.org_id,
                request.path_params["id"],
                program,
                wait_ms=program.timeout_ms + _GRACE_MS,
                keep_head=_KEEP_HEAD,
                keep_tail=_KEEP_TAIL,
            )
        noted(exit_code=outcome.exit_code)
        return success("ok", outcome_object(outcome))

    async def stream(self, request: Request, who: Principal) -> Response:
        """Run a command and send what it writes as events; a client that goes away ends it."""
        wish = await parse_body(request, CommandWish)
        timeout_s = _foreground(wish.timeout)
        program = wish.program(timeout_s)
        owner = who.org_id
        sandbox = await self._fleet.get(owner, request.path_params["id"])

        async def serve(receive: Receive, answer: Answer) -> None:
            pid = (await self._fleet.start(owner, sandbox.id, program)).pid
            followed = False
            try:
                async with while_connected(receive):
                    events = EventStream(self._fleet, owner, sandbox.id, pid, answer, binary=wish.binary)
                    noted(exit_code=await events.send(timeout_s=timeout_s))
                    followed = True
            finally:
                if not followed:
                    await self._end(owner, sandbox.id, pid)

        return Streamed(serve)

    async def _end(self, owner: str, sandbox_id: str, pid: int) -> None:
        with anyio.move_on_after(_END_S, shield=True):
            try:
                await self._fleet.signal(owner, sandbox_id, pid, _KILL)
            except CasemateError as error:
                # It has ended by itself, or with its sandbox; otherwise its own time limit ends it.
                _log.info("command not ended", sandbox=sandbox_id, pid=pid, reason=error.message)

    async def run(self, request: Request, who: Principal) -> Response:
        """Start a command in the background."""
        wish = await parse_body(request, CommandWish)
        program = wish.program(_seconds(wish.timeout, _BACKGROUND_MOST_S))
        info = await self._fleet.start(who.org_id, request.path_params["id"], program)
        return JSONResponse({"success": True, "pid": info.pid, "command": info.command})

    async def list(self, request: Request, who: Principal) -> Response:
        """The background commands, oldest first, finished ones included."""
        found = await self._fleet.processes(who.org_id, request.path_params["id"])
        return JSONResponse({"success": True, "processes": [process_object(info) for info in found]})

    async def kill(self, request: Request, who: Principal) -> Response:
        """Kill a background command and all that it started."""
        wish = await parse_body(request, ProcessWish)
        await self._fleet.signal(who.org_id, request.path_params["id"], wish.pid, wish.signal)
        message = "Process killed" if wish.signal == _KILL else f"Signal {wish.signal} sent"
        return JSONResponse({"success": True, "message": message})

    async def attach(self, request: Request, who: Principal) -> Response:
        """Send what a background command wrote and writes as events; a client that goes away leaves it alone."""
        wish = await parse_body(request, ProcessWish)
        owner = who.org_id
        sandbox = await self._fleet.get(owner, request.path_params["id"])
        # Asked first, so that a missing one is a 404 and no stream.
        await self._fleet.read_output(owner, sandbox.id, wish.pid, max_bytes=1)

        async def serve(receive: Receive, answer: Answer) -> None:
            async with while_connected(receive):
                events = EventStream(self._fleet, owner, sandbox.id, wish.pid, answer, binary=wish.binary)
                await events.send(follow=wish.follow)

        return Streamed(serve)

    async def wait(self, request: Request, who: Principal) -> Response:
        """Wait for a background command's end."""
        wish = await parse_body(request, ProcessWish)
        async with while_connected(request.receive):
            while True:
                outcome = await self._fleet.wait(who.org_id, request.path_params["id"], wish.pid, wait_ms=_ROUND_MS)
                if not outcome.running:
                    break
        noted(exit_code=outcome.exit_code)
        error = {"error": "killed: it took longer than its timeout"} if outcome.timed_out else {}
        return JSONResponse({"success": True, "exitCode": outcome.exit_code, **error})


def outcome_object(outcome: Outcome) -> dict[str, Any]:
    """A finished command: VoidRun's three fields, and whether it was cut short.

    Raises:
        LinkTimeout: It has not finished, although its time limit has passed.
    """
    if outcome.exit_code is None:
        raise LinkTimeout(f"Process {outcome.pid} did not end in time", hint="Look at it with commands/list")
    cut = outcome.stdout.dropped + outcome.stderr.dropped
    optional = {"timedOut": outcome.timed_out, "truncated": bool(cut)}
    return {
        "stdout": _text(outcome.stdout),
        "stderr": _text(outcome.stderr),
        "exitCode": outcome.exit_code,
        **{name: value for name, value in optional.items() if value},
    }


def process_object(info: ProcessInfo) -> dict[str, Any]:
    """A background command as clients know it."""
    ended = {} if info.exit_code is None else {"exitCode": info.exit_code}
    return {
        "pid": info.pid,
        "command": info.command,
        "startTime": timestamp(info.started_ms),
        "running": info.running,
        **ended,
    }


def _text(captured: Captured) -> str:
    if not captured.dropped:
        return captured.data().decode("utf-8", "replace")
    gap = f"\n[{captured.dropped} bytes left out]\n"
    return captured.head.decode("utf-8", "replace") + gap + captured.tail.decode("utf-8", "replace")


def _foreground(timeout: float) -> float:
    """A time limit in seconds; none at all means thirty, as VoidRun has it."""
    return _TIMEOUT_S if timeout <= 0 else _seconds(timeout, _TIMEOUT_MOST_S)


def _seconds(timeout: float, most: float) -> float:
    if not 0 <= timeout <= most:
        raise InvalidInput(f"timeout: {timeout:g} s is out of range", hint=f"Use 0 to {most:g}")
    return timeout
