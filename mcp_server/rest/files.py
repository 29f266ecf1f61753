"""Files over REST: list, download, upload. See `shell` for the operations whose results look like a command's."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from pydantic import AfterValidator
from starlette.responses import JSONResponse, Response

from auth.roles import Scope
from mcp_server.wire import timestamp
from vmm.errors import GuestFileRefused

from ..http.problem import problem
from .body import WireModel, parse_query
from .byte_range import ByteRange, parse_range
from .contract import BYTES, GUEST, Media, contract
from .endpoint import Endpoint
from .multipart import file_field
from .paths import GuestPath
from .shapes.envelope import Enveloped
from .shapes.files import EntryObject, Listing, Uploaded
from .streaming import Streamed, incoming, while_connected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import FileInfo

    from .streaming import Answer

_FILE = Media(type=BYTES, description="The file.")
_FORM = Media(type="multipart/form-data", description="A form with the file.", field="file")
_LIST_HEAD = '{"status":"success","message":"ok","data":{"success":true,"files":['
"""The start of a list's answer, see `envelope`; the rest follows page by page."""
_SMALL = 256 * 1024
"""A file up to this size is read before the answer begins, because the size that the kernel states may be wrong."""


def _octal(text: str) -> str:
    if not text or len(text) > 4 or set(text) - set("01234567"):
        raise ValueError("Must be octal permissions, such as 644")
    return text


class Directory(WireModel):
    """A directory, by default root's home."""

    path: GuestPath = "/root"


class Download(WireModel):
    """A file to download."""

    path: GuestPath


class Upload(WireModel):
    """A file to write, and its permissions; without them an existing file keeps its own."""

    path: GuestPath
    mode: Annotated[str, AfterValidator(_octal)] | None = None


class FileRoutes:
    """The routes that list directories and transfer files."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base = "/api/sandboxes/{id}/files"
        return [
            Endpoint(method="GET", path=base, handler=self.list, scope=Scope.READ, action="file.list"),
            Endpoint(
                method="GET", path=f"{base}/download", handler=self.download, scope=Scope.READ, action="file.download"
            ),
            Endpoint(method="POST", path=f"{base}/upload", handler=self.upload, scope=Scope.RUN, action="file.upload"),
        ]

    @contract(Enveloped[Listing], query=Directory, refusals=GUEST)
    async def list(self, request: Request, who: Principal) -> Response:
        """Stream a directory's entries: up to 100,000 in the order of their names, more in the directory's own.

        `truncated` says whether there are more than a million, of which the rest is left out.
        """
        wanted = parse_query(request, Directory)
        owner, ref = who.org_id, request.path_params["id"]
        headers = {"content-type": "application/json"}
        if request.method == "HEAD":
            async with self._fleet.guest.open_list(owner, ref, wanted.path, limit=1):
                return Response(headers=headers)

        async def serve(receive: Receive, answer: Answer) -> None:
            async with while_connected(receive), self._fleet.guest.open_list(owner, ref, wanted.path) as pages:
                await answer.begin(200, headers)
                part, comma = _LIST_HEAD, ""
                async for page in pages:
                    await answer.write(part.encode())
                    entries = json.dumps([entry_object(entry) for entry in page], separators=(",", ":"))
                    part, comma = comma + entries[1:-1], ","
                await answer.write(f'{part}],"truncated":{json.dumps(pages.truncated)}}}}}'.encode())

        return Streamed(serve)

    @contract(_FILE, others={206: _FILE}, query=Download, refusals={*GUEST, 416})
    async def download(self, request: Request, who: Principal) -> Response:
        """Stream a file, or one range of it."""
        wanted = parse_query(request, Download)
        owner, ref = who.org_id, request.path_params["id"]
        # Answers carry no version of the file, so an If-Range condition never holds: the whole file is sent.
        asked = "" if "if-range" in request.headers else request.headers.get("range", "")
        async with self._fleet.guest.open_read(owner, ref, wanted.path, length=0) as (info, _):
            size = info.size
        if size <= _SMALL:
            # For files in /proc and /sys the kernel states a wrong size; reading a small file avoids depending on it.
            found = await self._fleet.guest.read_file(owner, ref, wanted.path, length=_SMALL)
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
            # A file of unknown size is read to its end.
            async with (
                while_connected(receive),
                self._fleet.guest.open_read(owner, ref, wanted.path, offset=start, length=length or None) as (
                    _,
                    pieces,
                ),
            ):
                await answer.begin(status, headers)
                sent = 0
                async for piece in pieces:
                    await answer.write(piece)
                    sent += len(piece)
                if sent < length:
                    raise GuestFileRefused(f"{wanted.path[:80]!r} was truncated while it was being read")

        return Streamed(serve)

    @contract(Uploaded, query=Upload, body=(_FILE, _FORM), refusals=GUEST)
    async def upload(self, request: Request, who: Principal) -> Response:
        """Write a file, completely or not at all: the raw body, or the field `file` of a multipart form."""
        wanted = parse_query(request, Upload)
        owner, ref = who.org_id, request.path_params["id"]
        mode = None if wanted.mode is None else int(wanted.mode, 8)
        content = incoming(request.receive)
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
            content = file_field(content, content_type)
        info = await self._fleet.guest.write_stream(owner, ref, wanted.path, content, mode=mode)
        return JSONResponse(Uploaded(success=True, path=info.path, size=info.size))


def entry_object(info: FileInfo) -> EntryObject:
    """Convert a directory entry to its JSON form."""
    shown: EntryObject = {
        "name": info.path.rstrip("/").rsplit("/", 1)[-1],
        "path": info.path,
        "size": info.size,
        "mode": stat.filemode(info.mode),
        "isDir": info.kind == "directory",
        "modTime": timestamp(info.mtime_ms),
        "type": info.kind,
    }
    if info.target:
        shown["target"] = info.target
    return shown


def _whole(info: FileInfo, data: bytes, asked: str, *, head: bool) -> Response:
    """Build the answer with a file that was read already, or a range of it."""
    part = parse_range(asked, len(data))
    if part is not None and not part.length:
        return _unsatisfiable(len(data))
    status, headers = _head(info, part, len(data))
    content = data[part.start : part.start + part.length] if part else data
    headers["content-length"] = str(len(content))
    return Response(b"" if head else content, status_code=status, headers=headers)


def _head(info: FileInfo, part: ByteRange | None, size: int) -> tuple[int, dict[str, str]]:
    """Build status and headers of an answer with a file, or a range of it."""
    name = info.path.rstrip("/").rsplit("/", 1)[-1]
    headers = {"content-type": BYTES, "content-disposition": attachment(name), "accept-ranges": "bytes"}
    if part is None:
        return 200, headers
    return 206, headers | {"content-range": f"bytes {part.start}-{part.start + part.length - 1}/{size}"}


def attachment(name: str) -> str:
    """Build the Content-Disposition for a file name with any characters."""
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "_" for letter in name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'


def _unsatisfiable(size: int) -> Response:
    answer = problem(
        416, f"The range starts beyond the end of the file, which has {size} bytes", "Request a range within it"
    )
    answer.headers["content-range"] = f"bytes */{size}"
    return answer
