"""Running commands over REST while their client waits: `exec` and `exec-stream`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import structlog
from pydantic import Field

from auth.roles import Scope
from mcp_server.audit.entry import noted
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
    from vmm.guest.values import Captured, Outcome

    from .streaming import Answer

_KEEP_HEAD = 256 * KIB
_KEEP_TAIL = 1024 * KIB
_COMMAND_LENGTH = 100_000
_TIMEOUT_S = 30
_TIMEOUT_MOST_S = 86_400
_GRACE_MS = 10_000
_END_S = 20
_KILL = 9
_log = structlog.stdlib.get_logger("casemate.rest")


class CommandWish(WireModel):
    """A command to run. With `args` it is a program that gets them, without a shell line.

    `binary` asks for events with bytes in place of lines. `open_stdin` keeps its standard input open for
    `commands/stdin`.
    """

    command: str
    args: list[str] = Field(default_factory=list[str])
    timeout: float = 0
    env: dict[str, str] = Field(default_factory=dict[str, str])
    cwd: str = ""
    binary: bool = False
    open_stdin: bool = False

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


class CommandRoutes:
    """The routes that run commands in a sandbox."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """The routes of this module."""
        base = "/api/sandboxes/{id}"
        run = Scope.RUN
        return [
            Endpoint(method="POST", path=f"{base}/exec", handler=self.exec, scope=run, action="sandbox.exec"),
            Endpoint(
                method="POST", path=f"{base}/exec-stream", handler=self.stream, scope=run, action="sandbox.exec_stream"
            ),
        ]

    async def exec(self, request: Request, who: Principal) -> Response:
        """Run a command and answer with what it wrote; a client that goes away ends it."""
        wish = await parse_body(request, CommandWish)
        if wish.open_stdin:
            raise InvalidInput("openStdin=True: exec answers at the end", hint="Use exec-stream or commands/run")
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
            pid = (await self._fleet.start(owner, sandbox.id, program, open_stdin=wish.open_stdin)).pid
            followed = False
            try:
                async with while_connected(receive):
                    events = EventStream(self._fleet, owner, sandbox.id, pid, answer, binary=wish.binary)
                    noted(exit_code=await events.send(timeout_s=timeout_s, tell_pid=wish.open_stdin))
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


def _text(captured: Captured) -> str:
    if not captured.dropped:
        return captured.data().decode("utf-8", "replace")
    gap = f"\n[{captured.dropped} bytes left out]\n"
    return captured.head.decode("utf-8", "replace") + gap + captured.tail.decode("utf-8", "replace")


def _foreground(timeout: float) -> float:
    """A time limit in seconds; none at all means thirty, as VoidRun has it."""
    return _TIMEOUT_S if timeout <= 0 else seconds(timeout, _TIMEOUT_MOST_S)


def seconds(timeout: float, most: float) -> float:
    """A time limit in seconds, unchanged.

    Raises:
        InvalidInput: It is negative, or above `most`.
    """
    if not 0 <= timeout <= most:
        raise InvalidInput(f"timeout: {timeout:g} s is out of range", hint=f"Use 0 to {most:g}")
    return timeout
