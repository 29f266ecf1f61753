"""Tools that read and change a sandbox's files."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mcp_server.wire import compact
from vmm.errors import InvalidInput

from .caller import caller
from .listing import info_object, listing_text, matches_text
from .output import MAX_BUDGET, budget_of, whole_characters
from .tool_spec import READS, REPLACES, SETS, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from vmm.fleet import Fleet
    from vmm.guest.values import FileSlice

_LISTED = 1000
_HITS = 100
_GLOB = frozenset("*?[")
_BASE64_PART = 0.75

Path = Annotated[str, Field(description="Absolute")]


class FileTools:
    """The tools for files."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [
            ToolSpec(function=self.read_file, hints=READS, core=True),
            ToolSpec(function=self.write_file, hints=REPLACES, core=True),
            ToolSpec(function=self.list_files, hints=READS, core=True),
            ToolSpec(function=self.create_directory, hints=SETS),
            ToolSpec(function=self.delete_file, hints=REPLACES),
            ToolSpec(function=self.move_file, hints=REPLACES, renamed={"source": "from"}),
            ToolSpec(function=self.file_info, hints=READS),
            ToolSpec(function=self.search_files, hints=READS),
        ]

    async def read_file(
        self,
        ref: SandboxRef,
        path: Path,
        offset: Annotated[int, Field(description="Bytes to skip")] = 0,
        length: Annotated[int, Field(description="Bytes to read, at most 80000")] = 16000,
        encoding: Annotated[str, Field(description="utf-8, or base64 for binary files")] = "utf-8",
    ) -> str:
        """Read a file as text. Of a longer one you get a part, and the offset to continue from."""
        binary = _is_base64(encoding)
        if offset < 0:
            raise InvalidInput(f"offset: {offset} is negative", hint="Count bytes from the file's start, from 0 on")
        most = budget_of(length)
        wanted = int(most * _BASE64_PART) if binary else min(length if length > 0 else most, MAX_BUDGET)
        part = await self._fleet.guest.read_file(caller().org_id, ref, path, offset=offset, length=wanted)
        return _as_base64(part) if binary else _as_text(part, path)

    async def write_file(
        self,
        ref: SandboxRef,
        path: Path,
        content: str,
        encoding: Annotated[str, Field(description="utf-8, or base64 for binary content")] = "utf-8",
        append: bool = False,
    ) -> str:
        """Write a file, replacing it completely or not at all; missing directories are created."""
        data = _decoded(content) if _is_base64(encoding) else _encoded(content)
        info = await self._fleet.guest.write_file(caller().org_id, ref, path, data, append=append)
        done = "Appended" if append else "Wrote"
        # The size of files in /proc and /sys means nothing.
        size = f"; {info.path} has {info.size}" if info.size >= len(data) else f" to {info.path}"
        return f"{done} {len(data)} bytes{size}."

    async def list_files(self, ref: SandboxRef, path: Path = "/root") -> str:
        """List a directory."""
        listing = await self._fleet.guest.list_files(caller().org_id, ref, path, limit=_LISTED)
        return listing_text(path, listing, budget=budget_of(0))

    async def create_directory(self, ref: SandboxRef, path: Path) -> str:
        """Create a directory and its missing parents; no error if it exists."""
        info = await self._fleet.guest.make_directory(caller().org_id, ref, path)
        return f"{info.path} exists."

    async def delete_file(self, ref: SandboxRef, path: Path) -> str:
        """Delete a file, or a directory with everything in it."""
        await self._fleet.guest.delete_path(caller().org_id, ref, path, recursive=True)
        return f"Deleted {path}."

    async def move_file(
        self,
        ref: SandboxRef,
        source: Path,
        to: Path,
    ) -> str:
        """Move or rename a file or directory; an existing file at the target is replaced."""
        info = await self._fleet.guest.move(caller().org_id, ref, source, to)
        return f"Moved {source} to {info.path}."

    async def file_info(self, ref: SandboxRef, path: Path) -> str:
        """Show a path's type, size, mode, owner and modification time."""
        return compact(info_object(await self._fleet.guest.stat(caller().org_id, ref, path)))

    async def search_files(
        self,
        ref: SandboxRef,
        pattern: Annotated[str, Field(description="Glob for file names such as *.py; a plain word may be anywhere")],
        path: Path = "/root",
        content: Annotated[str, Field(description="Only files that contain this text; gives the lines")] = "",
    ) -> str:
        """Find files below a directory, by name and content."""
        if not pattern and not content:
            raise InvalidInput("pattern is empty", hint="Give a file name pattern such as *.py, or content")
        name = pattern if not pattern or _GLOB.intersection(pattern) else f"*{pattern}*"
        result = await self._fleet.guest.search(caller().org_id, ref, path, name=name, content=content, limit=_HITS)
        return matches_text(result, budget=budget_of(0))


def _is_base64(encoding: str) -> bool:
    match encoding.strip().lower().replace("_", "-"):
        case "" | "utf-8" | "utf8" | "text":
            return False
        case "base64":
            return True
        case _:
            raise InvalidInput(f"encoding: {encoding[:40]!r} is unknown", hint="Use utf-8 or base64")


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"content is not base64: {error}", hint="Encode it, or use encoding utf-8") from None


def _encoded(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"content has an unpaired surrogate at character {error.start}", hint="Send whole characters, or base64"
        ) from None


def _as_base64(part: FileSlice) -> str:
    text = base64.b64encode(part.data).decode()
    if part.offset == 0 and not part.more:
        return text
    return f"{text}\n[base64 of bytes {part.offset} to {part.end}{_rest(part, part.end)}]"


def _as_text(part: FileSlice, path: str) -> str:
    """Decode the slice verbatim, without partial characters at its ends.

    Raises:
        InvalidInput: The data is not text.
    """
    data = part.data[: whole_characters(part.data)] if part.more else part.data
    skipped = 0
    while part.offset and skipped < min(3, len(data)) and data[skipped] & 0xC0 == 0x80:
        skipped += 1
    data = data[skipped:]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        size = "" if part.size is None else f" ({part.size} bytes)"
        raise InvalidInput(
            f"{path[:80]} contains binary data{size}",
            hint='Read it with encoding="base64", or look at it with execute_command (file, xxd)',
        )
    start = part.offset + skipped
    end = start + len(data)
    if part.size == 0:
        return "[the file is empty]"
    if start == 0 and not part.more:
        return text
    if not data:
        size = "it ends before" if part.size is None else f"the file has {part.size}"
        return f"[nothing from byte {part.offset} on: {size}]"
    newline = "" if text.endswith("\n") else "\n"
    return f"{text}{newline}[bytes {start} to {end}{_rest(part, end)}]"


def _rest(part: FileSlice, end: int) -> str:
    """Say how large the file is, and where to continue."""
    size = "" if part.size is None else f" of {part.size}"
    if not part.more:
        return size
    return f"{size}; continue with offset={end}" if size else f", and there is more; continue with offset={end}"
