"""Commands over REST whose client waits for them: `exec` and `exec-stream`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import anyio
import structlog
from pydantic import Field

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.wire import limit_ms
from vmm.errors import CasemateError, InvalidInput
from vmm.guest.values import KIB, MIB, Command

from .body import WireModel, parse_body
from .contract import EVENTS, GUEST, contract
from .endpoint import Endpoint
from .envelope import success
from .event_stream import EventStream
from .long_output import LongOutput
from .outcome import outcome_object
from .shapes.commands import OutcomeObject
from .shapes.envelope import Enveloped
from .streaming import Streamed, while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet

    from .streaming import Answer

_KEEP_HEAD = 256 * KIB
_KEEP_TAIL = 1024 * KIB
_COMMAND_LENGTH = 100_000
_TIMEOUT_S = 30
_TIMEOUT_MOST_S = 86_400
MOST_BODY = 16 * MIB
"""Largest body of a command request, in bytes, so that it has room for `stdin` in its JSON encoding."""

INVALID = "Invalid request"
"""VoidRun's text for a body that cannot be read; what is wrong with it is in the details."""
_FAILURE = "Command execution failed"
_GRACE_MS = 10_000
_END_S = 20
_KILL = 9
_log = structlog.stdlib.get_logger("casemate.rest")


class CommandRequest(WireModel):
    """A command to run: a shell command line, or with `args` and without blanks a program that is started directly.

    `stdin` is the content of its standard input; without it, standard input is empty. `open_stdin` keeps standard input
    open for `commands/stdin`. `binary` selects events that carry bytes instead of lines.
    """

    refusal: ClassVar[str] = INVALID

    command: str = ""
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
        line = check_line(self.command)
        # VoidRun ignores the arguments; a program's name has no blanks, so such a command is meant as a line.
        argv = (line.strip(), *self.args) if self.args and len(line.split()) == 1 else ()
        return Command(
            shell=None if argv else line,
            argv=argv,
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
            Endpoint(
                method="POST",
                path=f"{base}/exec",
                handler=self.exec,
                scope=run,
                action="sandbox.exec",
                failure=_FAILURE,
            ),
            Endpoint(
                method="POST",
                path=f"{base}/exec-stream",
                handler=self.stream,
                scope=run,
                action="sandbox.exec_stream",
                failure=_FAILURE,
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
        timeout_s = foreground_s(wanted.timeout)
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
        if outcome.stdout.dropped or outcome.stderr.dropped:
            return LongOutput(self._fleet, who.org_id, request.path_params["id"], outcome, timeout_s=timeout_s)
        return success("ok", outcome_object(outcome, timeout_s=timeout_s))

    @contract(EVENTS, body=CommandRequest, refusals=GUEST)
    async def stream(self, request: Request, who: Principal) -> Response:
        """Run a command and stream its output as events; it is killed when the client disconnects."""
        wanted = await parse_body(request, CommandRequest, most=MOST_BODY)
        timeout_s = foreground_s(wanted.timeout)
        program = wanted.program(timeout_s)
        owner = who.org_id
        sandbox = await self._fleet.sandboxes.get(owner, request.path_params["id"])

        async def serve(receive: Receive, answer: Answer) -> None:
            network = self._fleet.network.of(sandbox)
            info = await self._fleet.guest.start(owner, sandbox.id, program, open_stdin=wanted.open_stdin, hold=True)
            pid = info.pid
            followed = False
            try:
                async with while_connected(receive):
                    events = EventStream(
                        self._fleet,
                        owner,
                        sandbox.id,
                        pid,
                        answer,
                        binary=wanted.binary,
                        prompts=wanted.open_stdin,
                        hold=True,
                        network=network,
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


def foreground_s(timeout: float) -> float:
    """Determine the time limit of a command that its caller waits for, in seconds; the default is 30, as in VoidRun.

    Raises:
        InvalidInput: The limit is longer than a day.
    """
    return _TIMEOUT_S if timeout <= 0 else seconds(timeout, _TIMEOUT_MOST_S)


def check_line(command: str) -> str:
    """Check a command line and return it.

    Raises:
        InvalidInput: It is empty or too long.
    """
    if not command.strip():
        raise InvalidInput("Command is required", hint="Give a shell command line, such as ls -la")
    if len(command) > _COMMAND_LENGTH:
        raise InvalidInput(
            f"Command exceeds maximum length: {len(command)} characters",
            hint=f"At most {_COMMAND_LENGTH}: upload a script and run that",
        )
    return command


def seconds(timeout: float, most: float) -> float:
    """Check a time limit in seconds and return it.

    Raises:
        InvalidInput: The limit is negative, or above `most`.
    """
    if not 0 <= timeout <= most:
        raise InvalidInput(f"timeout: {timeout:g} s is out of range", hint=f"Use 0 to {most:g}")
    return timeout
