"""Background commands over REST, in VoidRun's flat format: start, list, signal, follow, wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from starlette.responses import JSONResponse

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.wire import timestamp
from vmm.agent.frames import MAX_INPUT
from vmm.errors import InvalidInput, ProcessMissing

from ..exit_reason import why_killed
from .body import WireModel, parse_body, parse_query
from .commands import INVALID, MOST_BODY, CommandRequest, seconds
from .contract import BYTES, EVENTS, GUEST, Media, contract
from .endpoint import Endpoint
from .event_stream import EventStream
from .shapes.commands import Fed, ProcessList, ProcessObject, Signalled, Started, Waited
from .streaming import Streamed, incoming, while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import ProcessInfo

    from .streaming import Answer

_MOST_S = 7 * 86_400
_ROUND_MS = 300_000
_KILL = 9
_FEED_WAIT_MS = 5_000


class ProcessRequest(WireModel):
    """A background command to signal, to follow or to wait for."""

    refusal: ClassVar[str] = INVALID
    field_refusals: ClassVar[Mapping[str, str]] = {"pid": "Invalid PID"}

    pid: int = Field(ge=1, le=2**31 - 1)
    signal: int = Field(default=_KILL, ge=1, le=64)
    binary: bool = False
    follow: bool = True


class InputRequest(WireModel):
    """The background command that reads the body as input, and whether its input ends after that."""

    pid: int = Field(ge=1, le=2**31 - 1)
    eof: bool = False


class BackgroundRoutes:
    """The routes for background commands."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base = "/api/sandboxes/{id}"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(
                method="POST",
                path=f"{base}/commands/run",
                handler=self.run,
                scope=run,
                action="command.run",
                failure="Failed to run command",
            ),
            Endpoint(
                method="GET",
                path=f"{base}/commands/list",
                handler=self.list,
                scope=read,
                action="command.list",
                failure="Failed to list processes",
            ),
            Endpoint(
                method="POST", path=f"{base}/commands/stdin", handler=self.stdin, scope=run, action="command.stdin"
            ),
            Endpoint(method="POST", path=f"{base}/commands/kill", handler=self.kill, scope=run, action="command.kill"),
            Endpoint(
                method="POST", path=f"{base}/commands/attach", handler=self.attach, scope=read, action="command.attach"
            ),
            Endpoint(method="POST", path=f"{base}/commands/wait", handler=self.wait, scope=read, action="command.wait"),
        ]

    @contract(Started, body=CommandRequest, refusals=GUEST, yields={"pid": "/pid"})
    async def run(self, request: Request, who: Principal) -> Response:
        """Start a command in the background."""
        wanted = await parse_body(request, CommandRequest, most=MOST_BODY)
        program = wanted.program(seconds(wanted.timeout, _MOST_S))
        info = await self._fleet.guest.start(
            who.org_id, request.path_params["id"], program, open_stdin=wanted.open_stdin, background=True
        )
        return JSONResponse(Started(success=True, pid=info.pid, command=info.command))

    @contract(ProcessList, refusals=GUEST)
    async def list(self, request: Request, who: Principal) -> Response:
        """List the background commands, oldest first, finished ones included; not those whose client waits."""
        found = await self._fleet.guest.processes(who.org_id, request.path_params["id"])
        listed = [process_object(info) for info in found if info.background]
        return JSONResponse(ProcessList(success=True, processes=listed))

    @contract(Fed, query=InputRequest, body=(Media(type=BYTES, description="The input."),), refusals=GUEST)
    async def stdin(self, request: Request, who: Principal) -> Response:
        """Feed the body, byte for byte, to a command that was started with `openStdin`, as fast as it reads.

        `open` in the answer says whether the command accepts more input.
        """
        wanted = parse_query(request, InputRequest)
        ref = request.path_params["id"]
        count, is_open = 0, True

        async def feed(data: bytes, *, eof: bool = False) -> bool:
            while True:
                state = await self._fleet.guest.feed(who.org_id, ref, wanted.pid, data, eof=eof, wait_ms=_FEED_WAIT_MS)
                if state != "full":
                    return state == "taken"

        async for piece in incoming(request.receive):
            for start in range(0, len(piece), MAX_INPUT):
                part = piece[start : start + MAX_INPUT]
                # Clients read the answer only after they have sent everything, so the rest is received and dropped.
                is_open = is_open and await feed(part)
                count += len(part) if is_open else 0
        is_open = is_open and await feed(b"", eof=wanted.eof) and not wanted.eof
        return JSONResponse(Fed(success=True, bytes=count, open=is_open))

    @contract(Signalled, body=ProcessRequest, refusals=GUEST)
    async def kill(self, request: Request, who: Principal) -> Response:
        """Signal a background command and all its children."""
        wanted = await parse_body(request, ProcessRequest)
        try:
            await self._fleet.guest.signal(who.org_id, request.path_params["id"], wanted.pid, wanted.signal)
        except ProcessMissing as error:  # 404 elsewhere; here VoidRun's status is another
            raise InvalidInput(error.message, hint=error.hint) from error
        message = "Process killed" if wanted.signal == _KILL else f"Signal {wanted.signal} sent"
        return JSONResponse(Signalled(success=True, message=message))

    @contract(EVENTS, body=ProcessRequest, refusals=GUEST)
    async def attach(self, request: Request, who: Principal) -> Response:
        """Stream a background command's output as events; it goes on when the client disconnects."""
        wanted = await parse_body(request, ProcessRequest)
        owner = who.org_id
        sandbox = await self._fleet.sandboxes.get(owner, request.path_params["id"])
        # Checked first, so that a missing command is answered with 404 instead of a stream.
        await self._fleet.guest.read_output(owner, sandbox.id, wanted.pid, max_bytes=1)

        async def serve(receive: Receive, answer: Answer) -> None:
            async with while_connected(receive):
                events = EventStream(
                    self._fleet,
                    owner,
                    sandbox.id,
                    wanted.pid,
                    answer,
                    binary=wanted.binary,
                    network=self._fleet.network.of(sandbox),
                )
                await events.send(follow=wanted.follow)

        return Streamed(serve)

    @contract(Waited, body=ProcessRequest, refusals=GUEST)
    async def wait(self, request: Request, who: Principal) -> Response:
        """Wait until a background command ends."""
        wanted = await parse_body(request, ProcessRequest)
        async with while_connected(request.receive):
            while True:
                outcome = await self._fleet.guest.wait(
                    who.org_id, request.path_params["id"], wanted.pid, wait_ms=_ROUND_MS
                )
                if not outcome.running:
                    break
        annotate_call(exit_code=outcome.exit_code)
        why = why_killed(outcome)
        return JSONResponse({"success": True, "exitCode": outcome.exit_code, **({"error": why} if why else {})})


def process_object(info: ProcessInfo) -> ProcessObject:
    """Convert a background command to its JSON form."""
    shown: ProcessObject = {
        "pid": info.pid,
        "command": info.command,
        "startTime": timestamp(info.started_ms),
        "running": info.running,
    }
    if info.exit_code is not None:
        shown["exitCode"] = info.exit_code
    return shown
