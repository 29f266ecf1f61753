"""Casemate's MCP server: its toolsets and its resources."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import InputRequiredResult

from vmm.errors import GuestFileMissing, NotFound

from .code import CodeTools
from .commands import CommandTools
from .files import FileTools
from .ports import PortTools
from .reach import reach
from .resources import add_resources
from .sandboxes import SandboxTools
from .snapshots import SnapshotTools
from .terminals import TerminalTools
from .tool_server import SHOWN, ToolServer, cause_below, explain
from .volumes import VolumeTools

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context
    from pydantic.networks import AnyUrl

    from vmm.fleet import Fleet

    from ..audit.log import AuditLog
    from ..defaults import Defaults
    from ..ports.published import PublishedPorts
    from ..terminals.screens import Screens
    from .tool_spec import ToolSpec

Toolset = Literal["all", "core", "readonly"]
TOOLSETS: tuple[Toolset, ...] = ("all", "core", "readonly")

INSTRUCTIONS = """\
Casemate gives you your own Linux computers: sandboxes, which are microVMs. {reach}
Workflow: create_sandbox once (or list_sandboxes to find one), then use its id or name in every call. Run things with
execute_command or run_code, handle files with read_file and write_file.
A call that outlasts `wait` returns a pid: read on with read_process_output. An idle sandbox sleeps (its status is
snapshotted); the next call wakes it with all its files, memory and programs. delete_sandbox when you are done."""

_MORE = """
Use terminals for interactive programs. snapshot_sandbox before a risky step, restore_snapshot to undo it, fork_sandbox
to try several ways at once."""

_FILES = "/files/"
_SANDBOX = "casemate://sandbox/"

READ_RESOURCE = "read_resource"
"""Name of resource reads in audit and metrics."""


class CasemateServer(ToolServer):
    """An MCP server over a fleet, with one of the toolsets."""

    def __init__(
        self,
        fleet: Fleet,
        screens: Screens,
        audit_log: AuditLog,
        *,
        toolset: Toolset,
        defaults: Defaults,
        ports: PublishedPorts,
    ) -> None:
        modules = (
            SandboxTools(fleet, defaults=defaults, ports=ports),
            PortTools(ports),
            SnapshotTools(fleet),
            VolumeTools(fleet),
            CommandTools(fleet),
            CodeTools(fleet),
            FileTools(fleet),
            TerminalTools(fleet, screens),
        )
        tool_specs = [spec for module in modules for spec in module.tool_specs() if _belongs(spec, toolset)]
        instructions = _instructions(fleet, toolset)
        super().__init__("casemate", audit_log, tool_specs, title="Casemate", instructions=instructions)
        add_resources(self, fleet)

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[None, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource; the media type of a file is guessed from its name.

        Raises:
            ResourceNotFoundError: There is no such sandbox or file, or it belongs to another owner.
            ResourceError: Any other failure; the text states the cause and the next step.
        """
        asked = {"uri": str(uri)}
        with self._audit_log.call(
            surface="mcp", action=READ_RESOURCE, arguments=asked, sandbox=_sandbox_of(uri)
        ) as entry:
            try:
                contents = await super().read_resource(uri, context)
            except ResourceError as error:
                cause = cause_below(error)
                if isinstance(error, ResourceNotFoundError):
                    entry.refuse("not_found: there is no such resource")
                else:
                    entry.fail(cause)
                missing = isinstance(cause, NotFound | GuestFileMissing) or isinstance(error, ResourceNotFoundError)
                explained = (ResourceNotFoundError if missing else ResourceError)(explain(error, str(uri)[:SHOWN]))
                raise explained from None
        if isinstance(contents, InputRequiredResult) or _FILES not in str(uri):
            return contents
        return [ReadResourceContents(content=item.content, mime_type=_media_type(str(uri), item)) for item in contents]


def _instructions(fleet: Fleet, toolset: Toolset) -> str:
    reached = reach(fleet.network.default, fleet.network.way)
    return INSTRUCTIONS.format(reach=reached) + (_MORE if toolset == "all" else "")


def _belongs(tool_spec: ToolSpec, toolset: Toolset) -> bool:
    match toolset:
        case "all":
            return True
        case "core":
            return tool_spec.core
        case "readonly":
            return bool(tool_spec.hints.read_only_hint)


def _sandbox_of(uri: AnyUrl | str) -> str:
    return str(uri).removeprefix(_SANDBOX).partition("/")[0] if str(uri).startswith(_SANDBOX) else ""


def _media_type(uri: str, item: ReadResourceContents) -> str:
    guessed, encoding = mimetypes.guess_type(uri.rsplit("/", 1)[-1])
    if isinstance(item.content, str):
        return guessed if guessed and guessed.startswith("text/") else "text/plain"
    return guessed if guessed and not encoding else "application/octet-stream"
