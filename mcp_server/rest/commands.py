"""Commands over REST whose client waits for them: `exec` and `exec-stream`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog
from pydantic import Field

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.shapes import filled
from mcp_server.wire import limit_ms
from vmm.errors import CasemateError, InvalidInput, LinkTimeout
from vmm.guest.values import KIB, MIB, Command

from ..exit_reason import why_killed
from .body import WireModel, parse_body
from .contract import EVENTS, GUEST, contract
from .endpoint import Endpoint
from .envelope import success
from .event_stream import EventStream
from .shapes.commands import OutcomeDetails, OutcomeObject
from .shapes.envelope import Enveloped
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
MOST_BODY = 16 * MIB
"""Largest body of a command request, in bytes, so that it has room for `stdin` in its JSON encoding."""

_GRACE_MS = 10_000
_END_S = 20
_KILL = 9
_log = structlog.stdlib.get_logger("casemate.rest")


class CommandRequest(WireModel):
    """A command to run. With `args` it is a program that is started directly, otherwise a shell command line.

    `stdin` is the content of its standard input; without it, standard input is empty. `open_stdin` keeps standard input
    open for `commands/stdin`. `binary` selects events that carry bytes instead of lines.
    """

    command: str
    args: list[str] = Field(default_factory=list[str])
    timeout: float = 0
    env: dict[str, str] = Field(default_factory=dict[str, str])
    cwd: str = ""
    stdin: str = ""
    binary: bool = False
    open_stdin: bool = False

    def program(self, timeout_s: float) -> Command:
        """Build the command for the guest.

        Raises:
            InvalidInput: The command is empty or too long.
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
            stdin=self.stdin.encode(),
            timeout_ms=limit_ms(timeout_s),
        )


class CommandRoutes:
    """The routes that run commands in a sandbox."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base = "/api/sandboxes/{id}"
        run = Scope.RUN
        return [
            Endpoint(method="POST", path=f"{base}/exec", handler=self.exec, scope=run, action="sandbox.exec"),
            Endpoint(
                method="POST", path=f"{base}/exec-stream", handler=self.stream, scope=run, action="sandbox.exec_stream"
            ),
        ]

    @contract(Enveloped[OutcomeObject], body=CommandRequest, refusals=GUEST)
    async def exec(self, request: Request, who: Principal) -> Response:
        """Run a command and return its output; it is killed when the client disconnects."""
        wanted = await parse_body(request, CommandRequest, most=MOST_BODY)
        if wanted.open_stdin:
            raise InvalidInput(
                "openStdin=True is not supported by exec, which answers at the end",
                hint="Use exec-stream or commands/run",
            )
        timeout_s = _foreground(wanted.timeout)
        program = wanted.program(timeout_s)
        async with while_connected(request.receive):
            outcome = await self._fleet.guest.exec(
                who.org_id,
                request.path_params["id"],
                program,
                wait_ms=program.timeout_ms + _GRACE_MS,
                keep_head=_KEEP_HEAD,
                keep_tail=_KEEP_TAIL,
            )
        annotate_call(exit_code=outcome.exit_code)
        return success("ok", outcome_object(outcome))

    @contract(EVENTS, body=CommandRequest, refusals=GUEST)
    async def stream(self, request: Request, who: Principal) -> Response:
        """Run a command and stream its output as events; it is killed when the client disconnects."""
        wanted = await parse_body(request, CommandRequest, most=MOST_BODY)
        timeout_s = _foreground(wanted.timeout)
        program = wanted.program(timeout_s)
        owner = who.org_id
        sandbox = await self._fleet.sandboxes.get(owner, request.path_params["id"])

        async def serve(receive: Receive, answer: Answer) -> None:
            network = self._fleet.network.of(sandbox)
            pid = (await self._fleet.guest.start(owner, sandbox.id, program, open_stdin=wanted.open_stdin)).pid
            followed = False
            try:
                async with while_connected(receive):
                    events = EventStream(
                        self._fleet, owner, sandbox.id, pid, answer, binary=wanted.binary, network=network
                    )
                    annotate_call(exit_code=await events.send(timeout_s=timeout_s, tell_pid=wanted.open_stdin))
                    followed = True
            finally:
                if not followed:
                    await self._end(owner, sandbox.id, pid)

        return Streamed(serve)

    async def _end(self, owner: str, sandbox_id: str, pid: int) -> None:
        with anyio.move_on_after(_END_S, shield=True):
            try:
                await self._fleet.guest.signal(owner, sandbox_id, pid, _KILL)
            except CasemateError as error:
                # It has ended already, alone or with its sandbox; otherwise its time limit ends it.
                _log.info("command not ended", sandbox=sandbox_id, pid=pid, reason=error.message)


def outcome_object(outcome: Outcome) -> OutcomeObject:
    """Convert a finished command to JSON: VoidRun's three fields, whether it or its output was cut, and what the
    sandbox's policy refused meanwhile.

    Raises:
        LinkTimeout: The command is still running, although its time limit has passed.
    """
    if outcome.exit_code is None:
        raise LinkTimeout(f"Process {outcome.pid} did not end in time", hint="Look at it with commands/list")
    cut = outcome.stdout.dropped + outcome.stderr.dropped
    optional: OutcomeDetails = {
        "timedOut": outcome.timed_out,
        "truncated": bool(cut),
        "outOfMemory": bool(outcome.memory_kill),
        "network": outcome.network,
    }
    # Clients show stderr, and most know only VoidRun's three fields.
    notice = f"[{why_killed(outcome)}]\n" if outcome.memory_kill else ""
    return {
        "stdout": _text(outcome.stdout),
        "stderr": _text(outcome.stderr) + notice,
        "exitCode": outcome.exit_code,
        **filled(optional),
    }


def _text(captured: Captured) -> str:
    if not captured.dropped:
        return captured.data().decode("utf-8", "replace")
    gap = f"\n[{captured.dropped} bytes left out]\n"
    return captured.head.decode("utf-8", "replace") + gap + captured.tail.decode("utf-8", "replace")


def _foreground(timeout: float) -> float:
    """Determine the time limit in seconds; the default is 30, as in VoidRun."""
    return _TIMEOUT_S if timeout <= 0 else seconds(timeout, _TIMEOUT_MOST_S)


def seconds(timeout: float, most: float) -> float:
    """Check a time limit in seconds and return it.

    Raises:
        InvalidInput: The limit is negative, or above `most`.
    """
    if not 0 <= timeout <= most:
        raise InvalidInput(f"timeout: {timeout:g} s is out of range", hint=f"Use 0 to {most:g}")
    return timeout
