"""Sandbox-api's seven tools, by their names, arguments and results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from ..tools.caller import caller
from ..tools.tool_spec import ACTS, READS, REPLACES, SETS, ToolSpec
from .execution import DEFAULT_S, Executed
from .names import LONGEST, owner_of
from .routes import created
from .shapes import CreatedSession, DeletedSession, Entries
from .workspace import Content

if TYPE_CHECKING:
    from .execution import Executor
    from .sessions import Sessions
    from .workspace import Workspace

SessionId = Annotated[
    str, Field(min_length=1, max_length=LONGEST, description="Your own name for a session; any use of it creates it")
]
Path = Annotated[str, Field(description="Relative to /workspace")]


class Written(TypedDict):
    """A file that was written."""

    status: Literal["written"]
    path: str


class Deleted(TypedDict):
    """A file or directory that was deleted."""

    status: Literal["deleted"]
    path: str


class SessionTools:
    """The tools of sandbox-api."""

    def __init__(self, sessions: Sessions, executor: Executor, workspace: Workspace) -> None:
        self._sessions = sessions
        self._executor = executor
        self._workspace = workspace

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools."""
        return [
            ToolSpec(function=self.create_session, hints=SETS),
            ToolSpec(function=self.delete_session, hints=REPLACES),
            ToolSpec(function=self.execute, hints=ACTS),
            ToolSpec(function=self.workspace_list, hints=READS),
            ToolSpec(function=self.workspace_read, hints=READS),
            ToolSpec(function=self.workspace_write, hints=REPLACES),
            ToolSpec(function=self.workspace_delete, hints=REPLACES),
        ]

    async def create_session(self, session_id: SessionId) -> CreatedSession:
        """Create a session: a Linux machine of its own with files in /workspace. One that exists stays as it is."""
        return await created(self._sessions, caller(), session_id)

    async def delete_session(self, session_id: SessionId) -> DeletedSession:
        """Delete a session with all its files; no error if there is none."""
        await self._sessions.delete(owner_of(caller()), session_id)
        return DeletedSession(status="deleted", session_id=session_id)

    async def execute(
        self,
        session_id: SessionId,
        command: Annotated[str, Field(description="A line for bash, such as ls -la | head")],
        timeout: Annotated[int, Field(description="Seconds, after which it is killed")] = DEFAULT_S,
        working_dir: str = "/workspace",
    ) -> Executed:
        """Run a command in a session, and return its output and exit code (-1 if the timeout ended it).

        Each call is a new shell: cd and variables do not last, files in /workspace do.
        """
        seconds = min(max(timeout, 1), self._executor.longest_s)
        return await self._executor.execute(caller(), session_id, command, timeout_s=seconds, working_dir=working_dir)

    async def workspace_list(self, session_id: SessionId, path: Path = "") -> Entries:
        """List a directory of the workspace."""
        return Entries(entries=await self._workspace.list(caller(), session_id, path))

    async def workspace_read(self, session_id: SessionId, path: Path) -> Content:
        """Read a file of the workspace: as text (encoding utf8), or in base64 what is no text."""
        return await self._workspace.read(caller(), session_id, path)

    async def workspace_write(self, session_id: SessionId, path: Path, content: str) -> Written:
        """Write text to a file of the workspace, replacing it; missing directories are created."""
        await self._workspace.write(caller(), session_id, path, content.encode("utf-8", "replace"))
        return Written(status="written", path=path)

    async def workspace_delete(self, session_id: SessionId, path: Path) -> Deleted:
        """Delete a file of the workspace, or a directory with everything in it."""
        await self._workspace.delete(caller(), session_id, path)
        return Deleted(status="deleted", path=path)
