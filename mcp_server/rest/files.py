"""Files over REST whose bytes or entries are sent as such: list, download, upload."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator
from starlette.responses import JSONResponse, Response

from auth.roles import Scope
from mcp_server.wire import timestamp
from vmm.errors import GuestFileRefused

from ..http.problem import problem
from .body import WireModel, parse_query
from .byte_range import ByteRange, parse_range
from .endpoint import Endpoint
from .envelope import success
from .multipart import file_field
from .paths import GuestPath
from .streaming import Streamed, incoming, while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import FileInfo

    from .streaming import Answer

_LISTED = 10_000
_BYTES = "application/octet-stream"
_SMALL = 256 * 1024
"""Bytes of a file that is read before the answer begins, so that its size is known rather than believed."""


def _octal(text: str) -> str:
    if not text or len(text) > 4 or set(text) - set("01234567"):
        raise ValueError("Give permissions in octal, such as 644")
    return text


class Directory(WireModel):
    """A directory, by default root's home."""

    path: GuestPath = "/root"


class Download(WireModel):
    """A file to send out."""

    path: GuestPath


class Upload(WireModel):
    """A file to take in, with its permissions if they are to be others than they were."""

    path: GuestPath
    mode: Annotated[str, AfterValidator(_octal)] | None = None


class FileRoutes:
    """The routes that move files and directory entries."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """The routes of this module."""
        base = "/api/sandboxes/{id}/files"
        return [
            Endpoint(method="GET", path=base, handler=self.list, scope=Scope.READ, action="file.list"),
            Endpoint(
                method="GET", path=f"{base}/download", handler=self.download, scope=Scope.READ, action="file.download"
            ),
            Endpoint(method="POST", path=f"{base}/upload", handler=self.upload, scope=Scope.RUN, action="file.upload"),
        ]

    async def list(self, request: Request, who: Principal) -> Response:
        """A directory's entries in name order."""
        wish = parse_query(request, Directory)
        listing = await self._fleet.guest.list_files(who.org_id, request.path_params["id"], wish.path, limit=_LISTED)
        files = [entry_object(entry) for entry in listing.entries]
        return success("ok", {"success": True, "files": files, "truncated": listing.truncated})

    async def download(self, request: Request, who: Principal) -> Response:
        """A file's bytes, or one range of them, streamed."""
        wish = parse_query(request, Download)
        owner, ref = who.org_id, request.path_params["id"]
        # A condition on the file's version cannot be met, for versions are not told: then the whole is sent.
        asked = "" if "if-range" in request.headers else request.headers.get("range", "")
        async with self._fleet.guest.open_read(owner, ref, wish.path, length=0) as (info, _):
            size = info.size
        if size <= _SMALL:
            # What the kernel says of its size is not needed, and of a file that it makes up is wrong.
            found = await self._fleet.guest.read_file(owner, ref, wish.path, length=_SMALL)
            if not found.more:
                return _whole(info, found.data, asked, head=request.method == "HEAD")
            size = 0
        part = parse_range(asked, size) if size else None
        if part is not None and not part.length:
            return _unsatisfiable(size)
        start, length = (part.start, part.length) if part else (0, size)
        status, headers = _head(info, part, size)
        if length:
            headers["content-length"] = str(length)
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)

        async def serve(receive: Receive, answer: Answer) -> None:
            # One whose size nobody knows is read to its end.
            async with (
                while_connected(receive),
                self._fleet.guest.open_read(owner, ref, wish.path, offset=start, length=length or None) as (_, pieces),
            ):
                await answer.begin(status, headers)
                sent = 0
                async for piece in pieces:
                    await answer.write(piece)
                    sent += len(piece)
                if sent < length:
                    raise GuestFileRefused(f"{wish.path[:80]!r} became shorter while it was read")

        return Streamed(serve)

    async def upload(self, request: Request, who: Principal) -> Response:
        """Write a file, all of it or nothing: the raw body, or the field `file` of a form."""
        wish = parse_query(request, Upload)
        owner, ref = who.org_id, request.path_params["id"]
        mode = None if wish.mode is None else int(wish.mode, 8)
        content = incoming(request.receive)
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
            content = file_field(content, content_type)
        info = await self._fleet.guest.write_stream(owner, ref, wish.path, content, mode=mode)
        return JSONResponse({"success": True, "path": info.path, "size": info.size})


def entry_object(info: FileInfo) -> dict[str, Any]:
    """A directory entry as clients know it."""
    return {
        "name": info.path.rstrip("/").rsplit("/", 1)[-1],
        "path": info.path,
        "size": info.size,
        "mode": stat.filemode(info.mode),
        "isDir": info.kind == "directory",
        "modTime": timestamp(info.mtime_ms),
        "type": info.kind,
        **({"target": info.target} if info.target else {}),
    }


def _whole(info: FileInfo, data: bytes, asked: str, *, head: bool) -> Response:
    """The answer that sends a file which is here already, or a range of it."""
    part = parse_range(asked, len(data))
    if part is not None and not part.length:
        return _unsatisfiable(len(data))
    status, headers = _head(info, part, len(data))
    content = data[part.start : part.start + part.length] if part else data
    headers["content-length"] = str(len(content))
    return Response(b"" if head else content, status_code=status, headers=headers)


def _head(info: FileInfo, part: ByteRange | None, size: int) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer with a file, or a range of it."""
    name = info.path.rstrip("/").rsplit("/", 1)[-1]
    headers = {"content-type": _BYTES, "content-disposition": attachment(name), "accept-ranges": "bytes"}
    if part is None:
        return 200, headers
    return 206, headers | {"content-range": f"bytes {part.start}-{part.start + part.length - 1}/{size}"}


def attachment(name: str) -> str:
    """The Content-Disposition under which something is saved, whatever letters its name has."""
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "_" for letter in name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'


def _unsatisfiable(size: int) -> Response:
    answer = problem(416, f"The range lies beyond the file's {size} bytes", "Ask for one within it")
    answer.headers["content-range"] = f"bytes */{size}"
    return answer
