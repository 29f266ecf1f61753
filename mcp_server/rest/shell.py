"""File operations in the form of shell commands, as in VoidRun: `data: {"stdout", "stderr", "exitCode"}`.

A failure inside the guest is a 200 with a nonzero exit code, because existing clients look there; bad parameters and
unknown sandboxes are refused as usual. No path ever becomes part of a shell line.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from vmm.errors import GuestError, GuestFileMissing
from vmm.guest.values import KIB, Command

from .body import parse_body, parse_query
from .contract import GUEST, contract
from .endpoint import Endpoint, Handler
from .envelope import success
from .outcome import outcome_object
from .paths import parent
from .shapes.commands import OutcomeObject
from .shapes.envelope import Enveloped
from .shell_requests import Content, HomePath, NewFile, OnePath, Part, Pattern, Permissions, TwoPaths

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import FileInfo

_TREE_MS = 600_000
_GRACE_MS = 10_000
_KEEP_HEAD = 256 * KIB
_KEEP_TAIL = 1024 * KIB
_HITS = 100
_LINES_MOST = 10_000
_TYPES = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character special file",
    stat.S_IFBLK: "block special file",
}
"""The names of file types as `stat` of coreutils prints them."""


class ShellRoutes:
    """The routes whose answers look like the outcome of a shell command."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        base = "/api/sandboxes/{id}/files"
        changes: list[tuple[str, str, Handler, str]] = [
            ("DELETE", base, self.delete, "file.delete"),
            ("POST", f"{base}/mkdir", self.mkdir, "file.mkdir"),
            ("POST", f"{base}/create", self.create, "file.create"),
            ("POST", f"{base}/copy", self.copy, "file.copy"),
            ("POST", f"{base}/move", self.move, "file.move"),
            ("POST", f"{base}/chmod", self.chmod, "file.chmod"),
        ]
        looks: list[tuple[str, str, Handler, str]] = [
            ("GET", f"{base}/head-tail", self.head_tail, "file.head_tail"),
            ("GET", f"{base}/stat", self.stat, "file.stat"),
            ("GET", f"{base}/du", self.usage, "file.du"),
            ("GET", f"{base}/search", self.search, "file.search"),
        ]
        return [
            Endpoint(method=method, path=path, handler=handler, scope=scope, action=action)
            for scope, group in ((Scope.RUN, changes), (Scope.READ, looks))
            for method, path, handler, action in group
        ]

    @contract(Enveloped[OutcomeObject], query=OnePath, refusals=GUEST)
    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a path and everything below it, as `rm -rf`."""
        wanted = parse_query(request, OnePath)

        async def done(owner: str, ref: str) -> str:
            try:
                await self._fleet.guest.delete_path(owner, ref, wanted.path, recursive=True)
            except GuestFileMissing:
                return ""  # Like rm -f, which accepts missing files.
            return ""

        return await _shaped(request, who, done)

    @contract(Enveloped[OutcomeObject], query=OnePath, refusals=GUEST)
    async def mkdir(self, request: Request, who: Principal) -> Response:
        """Create a directory and its parents, as `mkdir -p`."""
        wanted = parse_query(request, OnePath)

        async def done(owner: str, ref: str) -> str:
            await self._fleet.guest.make_directory(owner, ref, wanted.path)
            return ""

        return await _shaped(request, who, done)

    @contract(Enveloped[OutcomeObject], query=NewFile, body=Content, refusals=GUEST)
    async def create(self, request: Request, who: Principal) -> Response:
        """Write the given content, or without one `touch` the file. Missing parent directories are created."""
        wanted = parse_query(request, NewFile)
        body = await parse_body(request, Content)
        content = wanted.content if body.content is None else body.content
        if content is None:
            return await self._run(request, who, ("touch", "--", wanted.path), make=parent(wanted.path))
        data = content.encode()

        async def done(owner: str, ref: str) -> str:
            await self._fleet.guest.write_file(owner, ref, wanted.path, data)
            return ""

        return await _shaped(request, who, done)

    @contract(Enveloped[OutcomeObject], query=TwoPaths, refusals=GUEST)
    async def copy(self, request: Request, who: Principal) -> Response:
        """Copy, as `cp -r`: into a directory if the target is one."""
        wanted = parse_query(request, TwoPaths)
        return await self._run(
            request, who, ("cp", "-r", "--", wanted.source, wanted.target), make=parent(wanted.target)
        )

    @contract(Enveloped[OutcomeObject], query=TwoPaths, refusals=GUEST)
    async def move(self, request: Request, who: Principal) -> Response:
        """Move, as `mv -f`: into a directory if the target is one."""
        wanted = parse_query(request, TwoPaths)
        return await self._run(
            request, who, ("mv", "-f", "--", wanted.source, wanted.target), make=parent(wanted.target)
        )

    @contract(Enveloped[OutcomeObject], query=Permissions, refusals=GUEST)
    async def chmod(self, request: Request, who: Principal) -> Response:
        """Change permissions, as `chmod`."""
        wanted = parse_query(request, Permissions)
        return await self._run(request, who, ("chmod", "--", wanted.mode, wanted.path))

    @contract(Enveloped[OutcomeObject], query=Part, refusals=GUEST)
    async def head_tail(self, request: Request, who: Principal) -> Response:
        """Return the first lines of a file if `head` is true, else the last ones."""
        wanted = parse_query(request, Part)
        program = "head" if wanted.head == "true" else "tail"
        return await self._run(request, who, (program, "-n", str(min(wanted.lines, _LINES_MOST)), "--", wanted.path))

    @contract(Enveloped[OutcomeObject], query=HomePath, refusals=GUEST)
    async def usage(self, request: Request, who: Principal) -> Response:
        """Return the size of a tree, as `du -sh`."""
        wanted = parse_query(request, HomePath)
        return await self._run(request, who, ("du", "-sh", "--", wanted.path))

    @contract(Enveloped[OutcomeObject], query=OnePath, refusals=GUEST)
    async def stat(self, request: Request, who: Principal) -> Response:
        """Describe a path, as JSON in `stdout`."""
        wanted = parse_query(request, OnePath)

        async def done(owner: str, ref: str) -> str:
            return f"{json.dumps(stat_object(await self._fleet.guest.stat(owner, ref, wanted.path)))}\n"

        return await _shaped(request, who, done)

    @contract(Enveloped[OutcomeObject], query=Pattern, refusals=GUEST)
    async def search(self, request: Request, who: Principal) -> Response:
        """Find paths by name below a directory: one per line, at most a hundred."""
        wanted = parse_query(request, Pattern)

        async def done(owner: str, ref: str) -> str:
            found = await self._fleet.guest.search(owner, ref, wanted.path, name=wanted.glob, limit=_HITS)
            return "".join(f"{match.path}\n" for match in found.matches)

        return await _shaped(request, who, done)

    async def _run(self, request: Request, who: Principal, argv: tuple[str, ...], *, make: str = "") -> Response:
        """Run a program of the guest, after creating the directory that it writes to."""
        owner, ref = who.org_id, request.path_params["id"]
        if make:
            try:
                await self._fleet.guest.make_directory(owner, ref, make)
            except GuestError as error:
                return _failed(request, error)
        outcome = await self._fleet.guest.exec(
            owner,
            ref,
            Command(argv=argv, cwd="/", timeout_ms=_TREE_MS),
            wait_ms=_TREE_MS + _GRACE_MS,
            keep_head=_KEEP_HEAD,
            keep_tail=_KEEP_TAIL,
        )
        annotate_call(exit_code=outcome.exit_code)
        return success("ok", outcome_object(outcome))


def stat_object(info: FileInfo) -> dict[str, object]:
    """Convert file information to VoidRun's `stat` format: the mode in hexadecimal, the time in seconds."""
    return {
        "path": info.path,
        "size": info.size,
        "mode": f"{info.mode:x}",
        "mtime": info.mtime_ms // 1000,
        "type": _type(info),
    }


def _type(info: FileInfo) -> str:
    if stat.S_ISREG(info.mode) and not info.size:
        return "regular empty file"
    return _TYPES.get(stat.S_IFMT(info.mode), "weird file")


async def _shaped(request: Request, who: Principal, call: Callable[[str, str], Awaitable[str]]) -> Response:
    """Answer with the outcome of a file operation as if a command had printed it."""
    try:
        stdout = await call(who.org_id, request.path_params["id"])
    except GuestError as error:
        return _failed(request, error)
    annotate_call(exit_code=0)
    return success("ok", {"stdout": stdout, "stderr": "", "exitCode": 0})


def _failed(request: Request, error: GuestError) -> Response:
    annotate_call(exit_code=1)
    return success("ok", {"stdout": "", "stderr": f"{error}\n", "exitCode": 1})
