"""Calls to the guest of a sandbox: commands, processes, files, terminals.

Each call takes the owner and the sandbox (id or name) first; its other arguments and its result are those of
`GuestLink`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from ..guest.archives import Archive
from ..guest.files import MAX_ENTRIES, Entries, Pieces
from ..guest.link import GuestLink
from ..guest.values import (
    KIB,
    ArchiveForm,
    ArchiveReport,
    Chunk,
    Command,
    Fed,
    FileInfo,
    FileSlice,
    GuestMetrics,
    Listing,
    MadeArchive,
    Outcome,
    ProcessInfo,
    ProcessOutput,
    SearchResult,
    TerminalInfo,
    TerminalOutput,
)
from ..lifecycle.access import GuestAccess
from ..sandboxes.sandbox import Sandbox
from .network import NetworkCalls
from .ownership import Ownership

T = TypeVar("T")


class GuestCalls:
    """What an owner may do inside a sandbox.

    Args:
        ownership: Finds the owner's sandboxes.
        access: Connects to their guests.
        network: Knows which of their connections were refused.
    """

    def __init__(self, ownership: Ownership, access: GuestAccess, network: NetworkCalls) -> None:
        self._ownership = ownership
        self._access = access
        self._network = network

    @asynccontextmanager
    async def reach(self, owner: str, ref: str, *, wake: bool = True) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        """Find a sandbox of the owner and the link to its guest, for one operation; wakes one that sleeps.

        Args:
            owner: The owner.
            ref: The sandbox's id or name.
            wake: Whether the operation counts as use, which wakes the sandbox and keeps it awake; otherwise one that
                sleeps is a Conflict.

        Raises:
            NotFound: There is none, or it is somebody else's.
            Conflict: Several sandboxes have the name.
            SandboxLost: Its machine has died.
        """
        sandbox = await self._ownership.get(owner, ref)
        async with self._access.use(sandbox) if wake else self._access.look(sandbox) as pair:
            yield pair

    async def exec(
        self,
        owner: str,
        ref: str,
        command: Command,
        *,
        wait_ms: int,
        keep_head: int = 256 * KIB,
        keep_tail: int = 256 * KIB,
        detach: bool = False,
    ) -> Outcome:
        """Run a command; after `wait_ms` it goes on in the background, and the outcome says so."""
        async with self.reach(owner, ref) as (sandbox, link):
            command = _with_defaults(sandbox, command)
            network = self._network.of(sandbox)
            outcome = await link.exec(command, wait_ms=wait_ms, keep_head=keep_head, keep_tail=keep_tail, detach=detach)
            return replace(outcome, network=network.refusals())

    async def start(
        self,
        owner: str,
        ref: str,
        command: Command,
        *,
        open_stdin: bool = False,
        background: bool = False,
        hold: bool = False,
    ) -> ProcessInfo:
        """Start a command, and leave it running."""
        async with self.reach(owner, ref) as (sandbox, link):
            return await link.start(
                _with_defaults(sandbox, command), open_stdin=open_stdin, background=background, hold=hold
            )

    async def processes(self, owner: str, ref: str) -> tuple[ProcessInfo, ...]:
        """List the commands that were started through Casemate, including finished ones."""
        return await self._run(owner, ref, lambda link: link.processes())

    async def wait(self, owner: str, ref: str, pid: int, *, wait_ms: int) -> Outcome:
        """Wait for a background command."""
        return await self._run(owner, ref, lambda link: link.wait(pid, wait_ms=wait_ms))

    async def read_output(
        self,
        owner: str,
        ref: str,
        pid: int,
        *,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        max_bytes: int = 256 * KIB,
        wait_ms: int = 0,
        explain: bool = False,
    ) -> ProcessOutput:
        """Read a command's output from given offsets on, while it runs and afterwards.

        With `explain`, the result has the sandbox's refused connections that no other result has explained.
        """
        async with self.reach(owner, ref) as (sandbox, link):
            output = await link.read_output(
                pid, stdout_offset=stdout_offset, stderr_offset=stderr_offset, max_bytes=max_bytes, wait_ms=wait_ms
            )
            return replace(output, network=self._network.of(sandbox).untold() if explain else "")

    @asynccontextmanager
    async def attach(
        self,
        owner: str,
        ref: str,
        pid: int,
        *,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        hold: bool = False,
    ) -> AsyncGenerator[AsyncIterator[Chunk]]:
        """Follow a command's output live."""
        async with (
            self.reach(owner, ref) as (_, link),
            link.attach(pid, stdout_offset=stdout_offset, stderr_offset=stderr_offset, hold=hold) as chunks,
        ):
            yield chunks

    async def send_stdin(self, owner: str, ref: str, pid: int, data: bytes, *, eof: bool = False) -> None:
        """Send input to a command that was started with open standard input."""
        await self._run(owner, ref, lambda link: link.send_stdin(pid, data, eof=eof))

    async def feed(self, owner: str, ref: str, pid: int, data: bytes, *, eof: bool = False, wait_ms: int = 0) -> Fed:
        """Send input to a command that was started with open standard input, wait, and say what was taken."""
        return await self._run(owner, ref, lambda link: link.feed(pid, data, eof=eof, wait_ms=wait_ms))

    async def signal(self, owner: str, ref: str, pid: int, signal: int = 15) -> None:
        """Send a signal to a command's whole process tree."""
        await self._run(owner, ref, lambda link: link.signal(pid, signal))

    async def list_files(self, owner: str, ref: str, path: str, *, limit: int = 1000) -> Listing:
        """List the entries of a directory."""
        return await self._run(owner, ref, lambda link: link.list_files(path, limit=limit))

    @asynccontextmanager
    async def open_list(self, owner: str, ref: str, path: str, *, limit: int = MAX_ENTRIES) -> AsyncGenerator[Entries]:
        """Stream the entries of a directory of any size."""
        async with self.reach(owner, ref) as (_, link), link.open_list(path, limit=limit) as entries:
            yield entries

    async def stat(self, owner: str, ref: str, path: str) -> FileInfo:
        """Describe what is at a path."""
        return await self._run(owner, ref, lambda link: link.stat(path))

    async def read_file(
        self, owner: str, ref: str, path: str, *, offset: int = 0, length: int | None = None
    ) -> FileSlice:
        """Read a range of a file."""
        return await self._run(owner, ref, lambda link: link.read_file(path, offset=offset, length=length))

    @asynccontextmanager
    async def open_read(
        self, owner: str, ref: str, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[tuple[FileInfo, Pieces]]:
        """Stream a file of any size out."""
        async with (
            self.reach(owner, ref) as (_, link),
            link.open_read(path, offset=offset, length=length) as opened,
        ):
            yield opened

    async def write_file(
        self,
        owner: str,
        ref: str,
        path: str,
        data: bytes,
        *,
        append: bool = False,
        mode: int | None = None,
        make_parents: bool = True,
    ) -> FileInfo:
        """Write a file, all of it or nothing."""
        return await self._run(
            owner,
            ref,
            lambda link: link.write_file(path, data, append=append, mode=mode, make_parents=make_parents),
        )

    async def write_stream(
        self,
        owner: str,
        ref: str,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        mode: int | None = None,
        make_parents: bool = True,
    ) -> FileInfo:
        """Stream a file of any size in, all of it or nothing."""
        return await self._run(
            owner, ref, lambda link: link.write_stream(path, chunks, mode=mode, make_parents=make_parents)
        )

    @asynccontextmanager
    async def pack(self, owner: str, ref: str, path: str) -> AsyncGenerator[Archive]:
        """Stream a directory out as a tar archive."""
        async with self.reach(owner, ref) as (_, link), link.pack(path) as archive:
            yield archive

    async def unpack(
        self, owner: str, ref: str, path: str, chunks: AsyncIterable[bytes], *, owners: bool = False
    ) -> ArchiveReport:
        """Unpack a tar archive into a directory; what was unpacked stays, even after an error."""
        return await self._run(owner, ref, lambda link: link.unpack(path, chunks, owners=owners))

    async def compress(self, owner: str, ref: str, path: str, form: ArchiveForm) -> MadeArchive:
        """Make an archive of a file or directory next to it."""
        return await self._run(owner, ref, lambda link: link.compress(path, form))

    async def extract(self, owner: str, ref: str, archive: str, target: str) -> ArchiveReport:
        """Unpack an archive into a directory, as a whole or not at all."""
        return await self._run(owner, ref, lambda link: link.extract(archive, target))

    async def make_directory(self, owner: str, ref: str, path: str, *, parents: bool = True) -> FileInfo:
        """Make a directory."""
        return await self._run(owner, ref, lambda link: link.make_directory(path, parents=parents))

    async def delete_path(self, owner: str, ref: str, path: str, *, recursive: bool = False) -> None:
        """Delete a file or directory."""
        await self._run(owner, ref, lambda link: link.delete(path, recursive=recursive))

    async def move(self, owner: str, ref: str, source: str, target: str, *, overwrite: bool = True) -> FileInfo:
        """Move or rename a file or directory."""
        return await self._run(owner, ref, lambda link: link.move(source, target, overwrite=overwrite))

    async def copy(self, owner: str, ref: str, source: str, target: str) -> FileInfo:
        """Copy a file or directory."""
        return await self._run(owner, ref, lambda link: link.copy(source, target))

    async def search(
        self,
        owner: str,
        ref: str,
        path: str,
        *,
        name: str = "",
        content: str = "",
        limit: int = 100,
        timeout_ms: int = 10_000,
    ) -> SearchResult:
        """Find files by name and content."""
        return await self._run(
            owner,
            ref,
            lambda link: link.search(path, name=name, content=content, limit=limit, timeout_ms=timeout_ms),
        )

    async def terminal_open(
        self,
        owner: str,
        ref: str,
        *,
        cols: int = 80,
        rows: int = 24,
        command: str = "",
        cwd: str = "",
        env: dict[str, str] | None = None,
        user: str = "",
    ) -> TerminalInfo:
        """Open a terminal; it stays open without connections."""
        async with self.reach(owner, ref) as (sandbox, link):
            merged = {**sandbox.env, **(env or {})}
            return await link.terminal_open(cols=cols, rows=rows, command=command, cwd=cwd, env=merged, user=user)

    async def terminals(self, owner: str, ref: str) -> tuple[TerminalInfo, ...]:
        """List the open terminals."""
        return await self._run(owner, ref, lambda link: link.terminals())

    async def terminal_input(self, owner: str, ref: str, terminal_id: str, data: bytes) -> None:
        """Type into a terminal."""
        await self._run(owner, ref, lambda link: link.terminal_input(terminal_id, data))

    async def terminal_resize(self, owner: str, ref: str, terminal_id: str, *, cols: int, rows: int) -> None:
        """Change a terminal's size."""
        await self._run(owner, ref, lambda link: link.terminal_resize(terminal_id, cols=cols, rows=rows))

    async def terminal_read(
        self,
        owner: str,
        ref: str,
        terminal_id: str,
        *,
        offset: int = 0,
        max_bytes: int = 256 * KIB,
        wait_ms: int = 0,
    ) -> TerminalOutput:
        """Read a terminal's raw output from an offset on."""
        return await self._run(
            owner,
            ref,
            lambda link: link.terminal_read(terminal_id, offset=offset, max_bytes=max_bytes, wait_ms=wait_ms),
        )

    async def terminal_close(self, owner: str, ref: str, terminal_id: str) -> None:
        """Close a terminal and end what runs in it."""
        await self._run(owner, ref, lambda link: link.terminal_close(terminal_id))

    async def metrics(self, owner: str, ref: str) -> GuestMetrics:
        """Measure the guest's resources. This does not count as use: it neither wakes a sandbox nor keeps it awake."""
        async with self.reach(owner, ref, wake=False) as (_, link):
            return await link.metrics()

    async def _run(self, owner: str, ref: str, operation: Callable[[GuestLink], Awaitable[T]]) -> T:
        async with self.reach(owner, ref) as (_, link):
            return await operation(link)


def _with_defaults(sandbox: Sandbox, command: Command) -> Command:
    return replace(command, env={**sandbox.env, **command.env}) if sandbox.env else command
