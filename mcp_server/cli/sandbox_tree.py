"""Files in a sandbox, reached over REST, as one end of a copy."""

from __future__ import annotations

import json
import stat
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .console import CliError, plain
from .errors import Missing
from .remote import Remote, route
from .tree import Entry, Report, Tree, kind_of
from .values import Object, as_object, as_objects

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

_LONG_S = 900
_NO_SUCH_FILE = "no such"


class SandboxTree(Tree):
    """The file system of a sandbox.

    Args:
        remote: The server.
        ref: The sandbox's id or name.
    """

    sandbox = True

    def __init__(self, remote: Remote, ref: str) -> None:
        self._remote = remote
        self._ref = ref

    def name(self, path: str) -> str:
        """Return the name of a path for messages."""
        return plain(f"{self._ref}:{path}")

    async def find(self, path: str) -> Entry | None:
        """Return the entry at a path, following links; None if there is none."""
        found = await self._stat(path)
        if found is None or found.kind != "link":
            return found
        try:
            await self._list(path)
        except Missing:
            return None
        except CliError:
            return Entry(name=found.name, kind="file")
        return Entry(name=found.name, kind="directory", mode=0o755)

    @asynccontextmanager
    async def open(self, path: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a file and yield its content in pieces."""
        async with self._remote.stream("GET", self._route("download"), query={"path": path}) as response:
            yield response.aiter_bytes()

    async def write(self, path: str, content: AsyncIterable[bytes], mode: int) -> None:
        """Create or replace a file."""
        headers = {"Content-Type": "application/octet-stream"}
        upload = self._remote.stream(
            "POST",
            self._route("upload"),
            query={"path": path, "mode": f"{mode & 0o777:o}"},
            content=content,
            headers=headers,
            read_s=_LONG_S,
        )
        async with upload as response:
            await response.aread()

    async def estimate_size(self, path: str) -> int:
        """Return 0, unknown: a sandbox takes as long to add up the size as to send the files."""
        del path
        return 0

    @asynccontextmanager
    async def pack(self, path: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a directory as a tar stream."""
        stream = self._remote.stream("GET", self._route("archive"), query={"path": path}, read_s=_LONG_S)
        async with stream as response:
            yield response.aiter_bytes()

    async def unpack(self, path: str, content: AsyncIterable[bytes], *, owners: bool) -> Report:
        """Unpack a tar stream into a directory."""
        upload = self._remote.stream(
            "PUT",
            self._route("archive"),
            query={"path": path, "owners": "true" if owners else "false"},
            content=content,
            headers={"Content-Type": "application/x-tar"},
            read_s=_LONG_S,
        )
        async with upload as response:
            try:
                done = as_object(json.loads(await response.aread()))
                files, size, skipped = (int(done[name]) for name in ("files", "bytes", "skippedCount"))
                listed = [(str(one.get("path")), str(one.get("reason"))) for one in as_objects(done.get("skipped"))]
            except (ValueError, TypeError, KeyError):
                raise CliError(f"{self.name(path)}: the server did not report what it unpacked") from None
        return Report(files=files, size=size, skipped=skipped, listed=listed)

    async def _stat(self, path: str) -> Entry | None:
        done = as_object(await self._remote.data("GET", self._route("stat"), query={"path": path}))
        if done.get("exitCode") != 0:
            reason = str(done.get("stderr") or "")
            if _NO_SUCH_FILE in reason.lower():
                return None
            raise CliError(f"{self.name(path)}: {plain(reason.strip())}")
        try:
            found = as_object(json.loads(str(done.get("stdout"))))
            mode = int(str(found.get("mode")), 16)
        except ValueError:
            raise CliError(f"{self.name(path)}: the server did not report the file's type") from None
        size = found.get("size")
        return Entry(
            name=path.rstrip("/").rpartition("/")[2],
            kind=kind_of(mode),
            size=size if isinstance(size, int) else 0,
            mode=stat.S_IMODE(mode),
        )

    async def _list(self, path: str) -> Object:
        return as_object(await self._remote.data("GET", route("sandboxes", self._ref, "files"), query={"path": path}))

    def _route(self, what: str) -> str:
        return route("sandboxes", self._ref, "files", what)
