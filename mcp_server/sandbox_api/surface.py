"""Sandbox-api as a whole: its routes, its MCP endpoint, and what runs in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tools.tool_server import ToolServer
from .execution import Executor
from .routes import SessionRoutes
from .sessions import Sessions
from .tools import SessionTools
from .workspace import Workspace

if TYPE_CHECKING:
    from vmm.fleet import Fleet

    from ..audit.log import AuditLog
    from .rules import Home, Rules

ENDPOINT = "/mcp"
"""The path of the MCP endpoint, which is also served with a slash at its end."""

_NAME = "Sandbox API"
_INSTRUCTIONS = """\
Each session_id is a Linux machine of your own, without network unless the operator allows it. Any use of a session_id
creates it; run commands with execute, and keep files in /workspace. An idle session sleeps and wakes with the next
call; one that nobody uses for long is deleted with its files. delete_session when you are done."""


class SessionApi:
    """The parts of sandbox-api, over one registry of sessions.

    Attributes:
        sessions: The sessions.
        endpoints: Its REST routes.

    Args:
        fleet: The running fleet; it must outlive the API.
        rules: The limits of sessions.
        home: Where their files are inside.
    """

    def __init__(self, fleet: Fleet, rules: Rules, home: Home) -> None:
        self.sessions = Sessions(fleet, rules, home)
        executor = Executor(fleet, self.sessions, rules, home)
        workspace = Workspace(fleet, self.sessions, rules, home)
        self.endpoints = SessionRoutes(self.sessions, executor, workspace).endpoints()
        self._tools = SessionTools(self.sessions, executor, workspace)

    def server(self, audit_log: AuditLog) -> ToolServer:
        """Build the MCP server."""
        return ToolServer(
            _NAME, audit_log, self._tools.tool_specs(), title=_NAME, instructions=_INSTRUCTIONS, structured=True
        )
