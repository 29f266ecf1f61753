"""The MCP server: its tools and resources, and the place where errors become texts for a model."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import structlog
from mcp.server import MCPServer
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError, UnexpectedToolError
from mcp.types import CallToolResult, InputRequiredResult, TextContent
from pydantic import ValidationError

from storage.errors import StoreError
from vmm.errors import CasemateError, GuestFileMissing, NotFound

from ..audit.log import UNKNOWN
from ..http.causes import only_member
from ..http.request_id import current_request_id
from .caller import caller
from .code import CodeTools
from .commands import CommandTools
from .files import FileTools
from .ports import PortTools
from .reach import reach
from .resources import add_resources
from .sandboxes import SandboxTools
from .snapshots import SnapshotTools
from .terminals import TerminalTools
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

_log = structlog.stdlib.get_logger("casemate.tools")
_SHOWN = 80
_PROBLEMS = 5
_FILES = "/files/"
_SANDBOX = "casemate://sandbox/"

READ_RESOURCE = "read_resource"
"""Name of resource reads in audit and metrics."""


class CasemateServer(MCPServer[None]):
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
        super().__init__(
            "casemate",
            title="Casemate",
            version=version("casemate"),
            instructions=_instructions(fleet, toolset),
            log_level="WARNING",
            # An open subscription would delay every shutdown, and the server pushes nothing.
            subscriptions=False,
        )
        self._audit_log = audit_log
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
        tool_specs = [
            tool_spec for module in modules for tool_spec in module.tool_specs() if _belongs(tool_spec, toolset)
        ]
        self._tool_specs = {tool_spec.name: tool_spec for tool_spec in tool_specs}
        for tool_spec in tool_specs:
            tool = self._tool_manager.add_tool(
                tool_spec.function,
                description=tool_spec.description,
                annotations=tool_spec.hints,
                structured_output=False,
            )
            tool_spec.simplify(tool.parameters)
        add_resources(self, fleet)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; errors are returned as results that state the cause and the next step."""
        tool_spec = self._tool_specs.get(name)
        action = UNKNOWN if tool_spec is None else name
        ref = str(arguments.get("id") or "")
        with self._audit_log.call(surface="mcp", action=action, arguments=arguments, sandbox=ref) as entry:
            if tool_spec is None:
                entry.refuse(f"there is no tool {name[:_SHOWN]!r}")
                return _failed(f"There is no tool {name[:_SHOWN]!r}. Available tools: {', '.join(self._tool_specs)}")
            missing = caller().lack(tool_spec.scope)
            if missing:
                entry.refuse(missing)
                return _failed(f"{missing}. Ask for a key with the scope {tool_spec.scope}.")
            try:
                return await super().call_tool(name, tool_spec.arguments(arguments), context)
            except ToolError as error:
                refused = _refused_arguments(error)
                if refused is None:
                    entry.fail(_cause(error))
                else:
                    entry.refuse_arguments(refused)
                return _failed(explain(error, name, tool_spec.wire_names))

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
                cause = _cause(error)
                if isinstance(error, ResourceNotFoundError):
                    entry.refuse("not_found: there is no such resource")
                else:
                    entry.fail(cause)
                missing = isinstance(cause, NotFound | GuestFileMissing) or isinstance(error, ResourceNotFoundError)
                explained = (ResourceNotFoundError if missing else ResourceError)(explain(error, str(uri)[:_SHOWN]))
                raise explained from None
        if isinstance(contents, InputRequiredResult) or _FILES not in str(uri):
            return contents
        return [ReadResourceContents(content=item.content, mime_type=_media_type(str(uri), item)) for item in contents]


def explain(error: Exception, what: str, wire_names: dict[str, str] | None = None) -> str:
    """Explain a failure to a model: the cause and the next step of known ones, a request id for unexpected ones.

    Args:
        error: The exception that the SDK raised around the failure.
        what: The tool or resource, for the log.
        wire_names: Names of arguments on the wire, where they differ from the parameters.
    """
    cause = _cause(error)
    if isinstance(cause, CasemateError):
        _log.info("call refused", call=what, code=cause.code, reason=cause.message)
        again = " The same call may succeed later." if cause.retryable else ""
        return f"{str(cause).rstrip('.')}.{again}"
    if isinstance(cause, StoreError):
        _log.error("store failed", call=what, reason=str(cause))
        return f"The server's store failed: {str(cause).rstrip('.')}. The call may have changed nothing."
    refused = _refused_arguments(error)
    if refused is not None:
        return f"Arguments refused: {_problems(refused, wire_names or {})}"
    if isinstance(error, ToolError | ResourceError) and cause is error and not isinstance(error, UnexpectedToolError):
        return str(error)
    request_id = current_request_id()
    _log.error("call failed", call=what, exc_info=cause)
    return f"Internal error; it has been logged. Tell the operator the request id {request_id or '(none)'}."


def _cause(error: BaseException) -> BaseException:
    """Find the original error below the SDK's wrappers and groups of one."""
    while True:
        inner = error.__cause__ if isinstance(error, ToolError | ResourceError) else only_member(error)
        if inner is None:
            return error
        error = inner


def _refused_arguments(error: Exception) -> ValidationError | None:
    """Return the validation error of a call's arguments; None for an error that the tool itself raised."""
    cause = error.__cause__
    unexpected = isinstance(error, UnexpectedToolError) or not isinstance(error, ToolError)
    return cause if isinstance(cause, ValidationError) and not unexpected else None


def _problems(error: ValidationError, wire_names: dict[str, str]) -> str:
    """Describe each invalid argument, with its value and what was expected."""
    lines: list[str] = []
    for problem in error.errors(include_url=False)[:_PROBLEMS]:
        path = [str(part) for part in problem["loc"]]
        name = ".".join([wire_names.get(path[0], path[0]), *path[1:]]) if path else "arguments"
        if problem["type"] == "missing":
            lines.append(f"{name} is missing")
            continue
        value = repr(problem["input"])
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
        lines.append(f"{name}={shown}: {problem['msg']}")
    return "; ".join(lines)


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


def _failed(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _sandbox_of(uri: AnyUrl | str) -> str:
    return str(uri).removeprefix(_SANDBOX).partition("/")[0] if str(uri).startswith(_SANDBOX) else ""


def _media_type(uri: str, item: ReadResourceContents) -> str:
    guessed, encoding = mimetypes.guess_type(uri.rsplit("/", 1)[-1])
    if isinstance(item.content, str):
        return guessed if guessed and guessed.startswith("text/") else "text/plain"
    return guessed if guessed and not encoding else "application/octet-stream"
