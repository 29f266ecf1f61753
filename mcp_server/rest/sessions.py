"""Sessions over REST, in VoidRun's flat format: shells that keep their directory, variables and functions.

A session runs one command at a time; a second one is refused with 409, since its answer would otherwise wait for a
command that the caller may not know. Nothing of a session is written anywhere on the host.
"""

from __future__ import annotations

import codecs
import json
import secrets
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from starlette.responses import JSONResponse, Response

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.wire import limit_ms
from vmm.errors import GuestError, InvalidInput, ProcessMissing

from .body import WireModel, parse_body
from .commands import INVALID, check_line, foreground_s
from .contract import GUEST, Media, contract
from .endpoint import Endpoint
from .event_stream import NOT_KEPT
from .session_output import LongSessionOutput, outcome_details, why_ended
from .shapes.commands import SessionAnswer, SessionEvent
from .streaming import Streamed, while_connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet

    from .streaming import Answer

_MAX_SIDE = 1000
_ID = r"^[A-Za-z0-9._:-]{1,100}$"
_MAX_INPUT = 100_000
_HEADERS = {
    "content-type": "application/x-ndjson",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

_LINES = Media(
    type="application/x-ndjson",
    description="Objects with the output, then one of the type `exit` with the exit code.",
    part=SessionEvent,
)

Action = Literal["create", "exec", "input", "resize", "close"]


class SessionAction(WireModel):
    """One action on a session. Without an id, `create` chooses one.

    `shell`, `cwd` and `env` belong to `create`; `command` and `timeout`, in seconds, to `exec`; `input` to `input`;
    `cols` and `rows` to `create` and `resize`.
    """

    refusal: ClassVar[str] = INVALID

    action: Action
    session_id: str = Field(default="", pattern=rf"^$|{_ID}")
    shell: str = ""
    cwd: str = ""
    env: dict[str, str] = Field(default_factory=dict[str, str])
    command: str = ""
    timeout: float = 0
    input: str = Field(default="", max_length=_MAX_INPUT)
    cols: int | None = Field(default=None, ge=1, le=_MAX_SIDE)
    rows: int | None = Field(default=None, ge=1, le=_MAX_SIDE)

    def existing(self) -> str:
        """Return the id of the session that the action is about.

        Raises:
            InvalidInput: There is none.
        """
        if not self.session_id:
            raise InvalidInput("sessionId is required", hint="Only create chooses one")
        return self.session_id

    def size(self) -> tuple[int, int]:
        """Return columns and rows.

        Raises:
            InvalidInput: One of them is missing.
        """
        if self.cols is None or self.rows is None:
            raise InvalidInput("cols and rows are required", hint="Give the terminal's whole size")
        return self.cols, self.rows


class SessionCommand(WireModel):
    """A command whose output is streamed."""

    refusal: ClassVar[str] = INVALID

    session_id: str = Field(pattern=_ID)
    command: str = ""
    timeout: float = 0


class SessionRoutes:
    """The two routes for sessions."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._actions: Mapping[Action, Callable[[str, str, SessionAction], Awaitable[dict[str, Any] | Response]]] = {
            "create": self._create,
            "exec": self._exec,
            "input": self._input,
            "resize": self._resize,
            "close": self._close,
        }

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base = "/api/sandboxes/{id}"
        run = Scope.RUN
        return [
            Endpoint(method="POST", path=f"{base}/session-exec", handler=self.act, scope=run, action="session.act"),
            Endpoint(
                method="POST", path=f"{base}/session-exec-stream", handler=self.stream, scope=run, action="session.exec"
            ),
        ]

    @contract(SessionAnswer, body=SessionAction, refusals=GUEST)
    async def act(self, request: Request, who: Principal) -> Response:
        """Create a session, run a command in it, type into it, resize or close it."""
        wanted = await parse_body(request, SessionAction)
        async with while_connected(request.receive):
            try:
                answer = await self._actions[wanted.action](who.org_id, request.path_params["id"], wanted)
            except ProcessMissing:
                raise
            except GuestError as error:  # VoidRun's status for all that its agent refuses
                raise InvalidInput(error.message, hint=error.hint) from error
        return answer if isinstance(answer, Response) else JSONResponse({"success": True, **answer})

    @contract(_LINES, body=SessionCommand, refusals=GUEST)
    async def stream(self, request: Request, who: Principal) -> Response:
        """Run a command in a session and stream its output as lines of JSON; a client that leaves interrupts it."""
        wanted = await parse_body(request, SessionCommand)
        line = check_line(wanted.command)
        timeout_s = foreground_s(wanted.timeout)
        owner, ref = who.org_id, request.path_params["id"]

        async def serve(receive: Receive, answer: Answer) -> None:
            following = self._fleet.sessions.follow(owner, ref, wanted.session_id, line, timeout_ms=limit_ms(timeout_s))
            async with while_connected(receive), following as pieces:
                await answer.begin(200, _HEADERS)
                decode = codecs.getincrementaldecoder("utf-8")("replace").decode
                seen = 0
                async for piece in pieces:
                    lost = piece.output.offset - seen
                    seen = piece.output.next_offset
                    over = not piece.state.running and seen >= piece.total
                    if lost > 0:
                        await answer.write(_event("error", data=f"{lost} bytes of output left out: {NOT_KEPT}"))
                    text = decode(piece.output.data, final=over)
                    if text or not over:  # an empty one keeps the connection of a command that prints nothing
                        await answer.write(_event("stdout", data=text))
                    if over:
                        annotate_call(exit_code=piece.state.exit_code)
                        why = why_ended(piece.state, timeout_s)
                        await answer.write(
                            _event("exit", exitCode=piece.state.exit_code, **({"error": why} if why else {}))
                        )

        return Streamed(serve)

    async def _create(self, owner: str, ref: str, wanted: SessionAction) -> dict[str, Any]:
        session_id = wanted.session_id or f"sess-{secrets.token_hex(8)}"
        await self._fleet.sessions.open(
            owner,
            ref,
            session_id,
            shell=wanted.shell.strip(),
            cols=wanted.cols or 80,
            rows=wanted.rows or 24,
            cwd=wanted.cwd.strip(),
            env=wanted.env,
        )
        return {"sessionId": session_id}

    async def _exec(self, owner: str, ref: str, wanted: SessionAction) -> dict[str, Any] | Response:
        session_id, line, timeout_s = wanted.existing(), check_line(wanted.command), foreground_s(wanted.timeout)
        outcome = await self._fleet.sessions.run(owner, ref, session_id, line, timeout_ms=limit_ms(timeout_s))
        annotate_call(exit_code=outcome.state.exit_code)
        if outcome.output.dropped:
            return LongSessionOutput(self._fleet, owner, ref, session_id, outcome, timeout_s=timeout_s)
        return {
            "sessionId": session_id,
            "output": outcome.output.data().decode("utf-8", "replace"),
            **outcome_details(outcome, lost=0, timeout_s=timeout_s),
        }

    async def _input(self, owner: str, ref: str, wanted: SessionAction) -> dict[str, Any]:
        session_id = wanted.existing()
        if not wanted.input:
            raise InvalidInput("input is required", hint='Give what to type, such as "yes\\n"')
        await self._fleet.sessions.input(owner, ref, session_id, wanted.input.encode())
        return {"sessionId": session_id}

    async def _resize(self, owner: str, ref: str, wanted: SessionAction) -> dict[str, Any]:
        session_id, (cols, rows) = wanted.existing(), wanted.size()
        await self._fleet.sessions.resize(owner, ref, session_id, cols=cols, rows=rows)
        return {"sessionId": session_id}

    async def _close(self, owner: str, ref: str, wanted: SessionAction) -> dict[str, Any]:
        session_id = wanted.existing()
        await self._fleet.sessions.close(owner, ref, session_id)
        return {"sessionId": session_id}


def _event(kind: str, **fields: object) -> bytes:
    # All in ASCII, since some clients end a line at Unicode's separators, too.
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode() + b"\n"
