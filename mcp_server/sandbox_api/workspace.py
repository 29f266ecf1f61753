"""Files of sessions, below the workspace: list, read, write, delete, as the session's own user.

A read of a session that does not exist finds an empty workspace, and creates nothing.
"""

from __future__ import annotations

import base64
import posixpath
from typing import TYPE_CHECKING, Literal

from typing_extensions import TypedDict

from storage.shown import shown
from vmm.errors import CasemateError, GuestDiskFull, GuestError, GuestFileMissing, InvalidInput, LinkTimeout
from vmm.guest.values import MIB, Command

from . import scripts
from .names import owner_of

if TYPE_CHECKING:
    from auth.principal import Principal
    from vmm.fleet import Fleet
    from vmm.guest.values import Outcome

    from .rules import Home, Rules
    from .sessions import Sessions

_WAIT_MS = 60_000
_MOST_LISTED = 4 * MIB
_LONGEST_PATH = 2048
_NO_SPACE = b"No space left on device"


class Entry(TypedDict):
    """An entry of a directory; what is no directory, such as a link, counts as a file."""

    name: str
    type: Literal["file", "dir"]


class Content(TypedDict):
    """A file: its text, or in base64 what is no UTF-8."""

    content: str
    encoding: Literal["utf8", "base64"]


class Workspace:
    """The files of sessions.

    Args:
        fleet: The running fleet.
        sessions: The sessions.
        rules: Their limits.
        home: Where the files are, and whose.
    """

    def __init__(self, fleet: Fleet, sessions: Sessions, rules: Rules, home: Home) -> None:
        self._fleet = fleet
        self._sessions = sessions
        self._rules = rules
        self._home = home

    @property
    def largest(self) -> int:
        """Bytes of the largest file."""
        return self._rules.file_bytes

    async def list(self, who: Principal, session_id: str, path: str) -> list[Entry]:
        """List a directory, by name.

        Raises:
            InvalidInput: The path leads out of the workspace, or to no directory.
            GuestFileMissing: There is no such directory.
        """
        place = self.resolve(path)
        if not await self._sessions.has_files(owner_of(who), session_id):
            if place != self._home.workspace:
                raise _missing()
            return []
        outcome = await self._run(who, session_id, scripts.LIST, place, most=_MOST_LISTED)
        if outcome.stdout.dropped:
            raise InvalidInput(
                "The directory has too many entries for a list", hint="Use execute, with ls and a pattern"
            )
        lines = outcome.stdout.data().split(b"\0")[:-1]
        entries = [
            Entry(name=line[1:].decode("utf-8", "replace"), type="dir" if line[:1] == b"d" else "file")
            for line in lines
        ]
        return sorted(entries, key=lambda entry: (entry["name"].lower(), entry["name"]))

    async def read(self, who: Principal, session_id: str, path: str) -> Content:
        """Read a whole file.

        Raises:
            InvalidInput: The path leads out of the workspace or to a directory, or the file is too large.
            GuestFileMissing: There is no such file.
        """
        place = self._file(path, "read")
        if not await self._sessions.has_files(owner_of(who), session_id):
            raise _missing()
        most = self._rules.file_bytes
        outcome = await self._run(who, session_id, scripts.READ, place, str(most), most=most + 1)
        if outcome.stdout.total > most:
            raise self._too_large("File")
        data = outcome.stdout.data()
        try:
            return Content(content=data.decode(), encoding="utf8")
        except UnicodeDecodeError:
            return Content(content=base64.b64encode(data).decode(), encoding="base64")

    async def write(self, who: Principal, session_id: str, path: str, data: bytes) -> str:
        """Write a whole file, all of it or nothing, with the directories above it; return its absolute path.

        Raises:
            InvalidInput: The path leads out of the workspace or to a directory, or the content is too large.
            GuestDiskFull: The disk is full; the file is as it was.
        """
        place = self._file(path, "write")
        if len(data) > self._rules.file_bytes:
            raise self._too_large("Content")
        await self._run(who, session_id, scripts.WRITE, place, stdin=data)
        return place

    async def delete(self, who: Principal, session_id: str, path: str) -> None:
        """Delete a file, or a directory with everything in it.

        Raises:
            InvalidInput: The path leads out of the workspace, or is the workspace.
            GuestFileMissing: There is no such file.
        """
        place = self.resolve(path)
        if not path.strip():
            raise InvalidInput("path is required for delete")
        if place == self._home.workspace:
            raise InvalidInput("Cannot delete workspace root")
        if not await self._sessions.has_files(owner_of(who), session_id):
            raise _missing()
        await self._run(who, session_id, scripts.DELETE, place)

    def resolve(self, path: str) -> str:
        """Return the absolute path of one that is relative to the workspace, or below it.

        Raises:
            InvalidInput: It leads out of the workspace, or is no path.
        """
        if "\0" in path:
            raise InvalidInput(f"path must be without NUL characters, got {shown(path)}")
        try:
            size = len(path.encode())
        except UnicodeEncodeError:
            raise InvalidInput(f"path must be valid Unicode text, got {shown(path)}") from None
        if size > _LONGEST_PATH:
            raise InvalidInput(f"path must have at most {_LONGEST_PATH} bytes, got {size}")
        root = self._home.workspace
        if path == "/workspace" or path.startswith("/workspace/"):
            path = path.removeprefix("/workspace").lstrip("/")
        place = posixpath.normpath(posixpath.join(root, path))
        if place != root and not place.startswith(f"{root}/"):
            raise InvalidInput("Path escapes workspace", hint="Give a path relative to the workspace")
        return place

    def _file(self, path: str, what: str) -> str:
        place = self.resolve(path)
        if place == self._home.workspace:
            raise InvalidInput(f"path is required for {what}" if not path.strip() else "Path is a directory")
        return place

    async def _run(
        self, who: Principal, session_id: str, text: str, place: str, *more: str, stdin: bytes = b"", most: int = 0
    ) -> Outcome:
        """Run a script about a path in a session's sandbox, and translate what it refuses."""
        owner = owner_of(who)
        command = Command(
            argv=scripts.script(text, self._home.workspace, place, *more),
            cwd="/",
            user=self._home.user,
            stdin=stdin,
            timeout_ms=_WAIT_MS,
        )
        async with self._sessions.use(owner, session_id) as sandbox:
            outcome = await self._fleet.guest.exec(
                owner, sandbox.id, command, wait_ms=2 * _WAIT_MS, keep_head=most or MIB, keep_tail=0
            )
        if outcome.exit_code != 0:
            raise self._refusal(outcome)
        return outcome

    def _refusal(self, outcome: Outcome) -> CasemateError:
        if outcome.exit_code is None or outcome.timed_out:
            return LinkTimeout("The session did not finish the file operation in time", hint="Try again")
        said = outcome.stderr.data()
        if _NO_SPACE in said:
            return GuestDiskFull("The disk of the session is full", hint="Delete files that are not needed")
        known: dict[int, CasemateError] = {
            scripts.MISSING: _missing(),
            scripts.ESCAPES: InvalidInput("Path escapes workspace", hint="A link in it leads out of the workspace"),
            scripts.DIRECTORY: InvalidInput("Path is a directory"),
            scripts.NO_DIRECTORY: InvalidInput("Path is not a directory"),
            scripts.TOO_LARGE: self._too_large("File"),
        }
        reason = said.decode("utf-8", "replace").strip()[-200:] or f"status {outcome.exit_code}"
        return known.get(outcome.exit_code) or GuestError(f"The file operation failed: {reason}")

    def _too_large(self, what: str) -> InvalidInput:
        return InvalidInput(f"{what} exceeds max size ({self._rules.file_bytes} bytes)")


def _missing() -> GuestFileMissing:
    return GuestFileMissing("Path not found")
