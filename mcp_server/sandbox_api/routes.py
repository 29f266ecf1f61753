"""Sandbox-api's REST routes: commands, sessions and their files. Errors also have `detail`; see `Detailed`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from auth.roles import Scope
from mcp_server.wire import sandbox_object, timestamp
from vmm.errors import InvalidInput, NotFound

from ..rest.body import WireModel, parse_body, parse_query, read_body
from ..rest.contract import BYTES, GUEST, Media, contract
from ..rest.endpoint import Endpoint
from ..rest.multipart import file_field
from ..rest.streaming import incoming
from .execution import Executed
from .names import container_id, owner_of, session_of
from .shapes import (
    ContentRequest,
    CreatedSession,
    DeletedSession,
    Directory,
    Entries,
    ExecuteRequest,
    File,
    SessionList,
    SessionObject,
    SessionRequest,
    Target,
    Uploaded,
)
from .workspace import Content

if TYPE_CHECKING:
    from starlette.requests import Request

    from auth.principal import Principal
    from vmm.sandboxes.sandbox import Sandbox

    from .execution import Executor
    from .sessions import Sessions
    from .workspace import Workspace

_JSON = "application/json"
_FORM = "multipart/form-data"
_UPLOAD = "upload"
_JSON_GROWTH = 6
"""How many times its bytes a text may have in JSON."""
_ROOM = 64 * 1024
_BODY = Media(type=BYTES, description="The file.")
_BODY_JSON = Media(type=_JSON, description='`{"content": "..."}`, as text.', part=ContentRequest)
_FILE = Media(type=_FORM, description="A form with the file.", field="file")
_REFUSALS = {*GUEST, 422}

M = TypeVar("M", bound=WireModel)


class SessionRoutes:
    """The routes of sandbox-api."""

    def __init__(self, sessions: Sessions, executor: Executor, workspace: Workspace) -> None:
        self._sessions = sessions
        self._executor = executor
        self._workspace = workspace

    def endpoints(self) -> list[Endpoint]:
        """List the routes."""
        all_, one, files = "/sessions", "/sessions/{session_id}", "/sessions/{session_id}/workspace"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="POST", path="/execute", handler=self.execute, scope=run, action="session.execute"),
            Endpoint(method="POST", path=all_, handler=self.create, scope=run, action="session.create"),
            Endpoint(method="GET", path=all_, handler=self.list, scope=read, action="session.list"),
            Endpoint(method="GET", path=one, handler=self.get, scope=read, action="session.get"),
            Endpoint(method="DELETE", path=one, handler=self.delete, scope=run, action="session.delete"),
            Endpoint(method="GET", path=files, handler=self.entries, scope=read, action="workspace.list"),
            Endpoint(method="DELETE", path=files, handler=self.remove, scope=run, action="workspace.delete"),
            Endpoint(method="GET", path=f"{files}/content", handler=self.read, scope=read, action="workspace.read"),
            Endpoint(method="PUT", path=f"{files}/content", handler=self.write, scope=run, action="workspace.write"),
            Endpoint(method="POST", path=f"{files}/upload", handler=self.upload, scope=run, action="workspace.upload"),
        ]

    @contract(Executed, body=ExecuteRequest, refusals=_REFUSALS)
    async def execute(self, request: Request, who: Principal) -> Response:
        """Run a command line in a session, and return its output. It is killed at its time limit."""
        wanted = await _parsed(request, ExecuteRequest)
        most = self._executor.longest_s
        if wanted.timeout > most:
            raise HTTPException(422, f"timeout={wanted.timeout}: Input should be less than or equal to {most}")
        done = await self._executor.execute(
            who, wanted.session_id, wanted.command, timeout_s=wanted.timeout, working_dir=wanted.working_dir
        )
        return JSONResponse(done)

    @contract(CreatedSession, body=SessionRequest, refusals=_REFUSALS)
    async def create(self, request: Request, who: Principal) -> Response:
        """Create a session; one that exists stays as it is, and one whose machine has died starts from its disk."""
        wanted = await _parsed(request, SessionRequest)
        return JSONResponse(await created(self._sessions, who, wanted.session_id))

    @contract(SessionList)
    async def list(self, request: Request, who: Principal) -> Response:
        """List the caller's sessions, newest first."""
        found = await self._sessions.list(owner_of(who))
        return JSONResponse(SessionList(sessions=[_session_object(sandbox) for sandbox in found]))

    @contract(SessionObject)
    async def get(self, request: Request, who: Principal) -> Response:
        """Describe a session, without waking it."""
        found = await self._sessions.find(owner_of(who), request.path_params["session_id"])
        if found is None:
            raise NotFound("Session not found", hint="Any use of its name creates it")
        return JSONResponse(_session_object(found))

    @contract(DeletedSession, refusals=GUEST)
    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a session with its files; no error if there is none."""
        session_id = request.path_params["session_id"]
        await self._sessions.delete(owner_of(who), session_id)
        return JSONResponse(DeletedSession(status="deleted", session_id=session_id))

    @contract(Entries, query=Directory, refusals=GUEST)
    async def entries(self, request: Request, who: Principal) -> Response:
        """List a directory of the workspace, by name."""
        wanted = parse_query(request, Directory)
        return JSONResponse(
            Entries(entries=await self._workspace.list(who, request.path_params["session_id"], wanted.path))
        )

    @contract(Content, query=File, refusals=GUEST)
    async def read(self, request: Request, who: Principal) -> Response:
        """Return a file of the workspace, as text or in base64."""
        wanted = parse_query(request, File)
        return JSONResponse(await self._workspace.read(who, request.path_params["session_id"], wanted.path))

    @contract(status=204, query=File, body=(_BODY, _BODY_JSON), refusals=_REFUSALS)
    async def write(self, request: Request, who: Principal) -> Response:
        """Write a file of the workspace, and the directories above it: the raw body, or `content` of a JSON object."""
        wanted = parse_query(request, File)
        if _media(request) == _JSON:
            most = _JSON_GROWTH * self._workspace.largest + _ROOM
            data = (await _parsed(request, ContentRequest, most=most)).content.encode("utf-8", "replace")
        else:
            # One byte more, so that the refusal is the workspace's own.
            data = await read_body(request, most=self._workspace.largest + _ROOM)
        await self._workspace.write(who, request.path_params["session_id"], wanted.path, data)
        return Response(status_code=204)

    @contract(status=204, query=File, refusals=GUEST)
    async def remove(self, request: Request, who: Principal) -> Response:
        """Delete a file of the workspace, or a directory with everything in it."""
        wanted = parse_query(request, File)
        await self._workspace.delete(who, request.path_params["session_id"], wanted.path)
        return Response(status_code=204)

    @contract(Uploaded, status=201, query=Target, body=(_FILE,), refusals=_REFUSALS)
    async def upload(self, request: Request, who: Principal) -> Response:
        """Upload a file into the workspace, by its own name or to `path`."""
        wanted = parse_query(request, Target)
        if _media(request) != _FORM:
            raise HTTPException(422, "file is required: send it as the field `file` of a multipart form")
        names: list[str] = []
        data = bytearray()
        try:
            async for piece in file_field(incoming(request.receive), request.headers["content-type"], names.append):
                if len(data) <= self._workspace.largest:
                    data += piece
        except InvalidInput as error:
            raise HTTPException(422, str(error)) from None
        session_id = request.path_params["session_id"]
        target = wanted.path.strip() or upload_name(names[0] if names else "")
        path = await self._workspace.write(who, session_id, target, bytes(data))
        return JSONResponse(Uploaded(path=path, session_id=session_id, size=len(data)), status_code=201)


async def created(sessions: Sessions, who: Principal, session_id: str) -> CreatedSession:
    """Create a session, or find it, and describe it."""
    opened = await sessions.open(owner_of(who), session_id, created_by=who.user_id)
    made = CreatedSession(
        session_id=session_id, container_id=container_id(opened.sandbox), sandbox_id=opened.sandbox.id
    )
    if opened.note:
        made["note"] = opened.note
    return made


def upload_name(filename: str) -> str:
    """Return the name under which an uploaded file is kept: its base name, with odd characters replaced."""
    base = re.split(r"[/\\]", filename.strip())[-1]
    name = re.sub(r"[^\w.\-]", "_", base)
    return name if name.strip(".") else _UPLOAD


async def _parsed(request: Request, model: type[M], *, most: int = 2 * 1024 * 1024) -> M:
    """Parse a JSON body; one that is malformed is 422, as clients of sandbox-api know it."""
    try:
        return await parse_body(request, model, most=most)
    except InvalidInput as error:
        raise HTTPException(422, str(error)) from None


def _media(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _session_object(sandbox: Sandbox) -> SessionObject:
    shown = sandbox_object(sandbox)
    made = SessionObject(
        session_id=session_of(sandbox),
        container_id=container_id(sandbox),
        sandbox_id=sandbox.id,
        status=shown["status"],
        created_at=shown["createdAt"],
        last_used_at=timestamp(sandbox.active_ms),
    )
    if sandbox.reason:
        made["reason"] = sandbox.reason
    return made
