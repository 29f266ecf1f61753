"""A server of tools: each call is audited and needs its scope, and errors become texts for a model, here alone."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError, UnexpectedToolError
from mcp.types import CallToolResult, InputRequiredResult, TextContent
from pydantic import ValidationError

from storage.errors import StoreError
from vmm.errors import CasemateError

from ..audit.log import UNKNOWN
from ..http.causes import only_member
from ..http.request_id import current_request_id
from .caller import caller
from .registration import registered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcp.server.mcpserver import Context

    from ..audit.log import AuditLog
    from .tool_spec import ToolSpec

_log = structlog.stdlib.get_logger("casemate.tools")
SHOWN = 80
"""Characters of a caller's value in a message."""
_PROBLEMS = 5


class ToolServer(MCPServer[None]):
    """An MCP server whose tools are audited.

    Args:
        name: Its name, which clients see.
        audit_log: Records every call.
        tool_specs: Its tools.
        title: Its name for people.
        instructions: What a model reads first.
        structured: Whether results are objects with a schema, instead of texts.
    """

    def __init__(
        self,
        name: str,
        audit_log: AuditLog,
        tool_specs: Sequence[ToolSpec],
        *,
        title: str,
        instructions: str,
        structured: bool = False,
    ) -> None:
        super().__init__(
            name,
            title=title,
            version=version("casemate"),
            instructions=instructions,
            tools=[registered(tool_spec, structured=structured) for tool_spec in tool_specs],
            log_level="WARNING",
            # An open subscription would delay every shutdown, and the server pushes nothing.
            subscriptions=False,
        )
        self._audit_log = audit_log
        self._tool_specs = {tool_spec.name: tool_spec for tool_spec in tool_specs}

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; errors are returned as results that state the cause and the next step."""
        tool_spec = self._tool_specs.get(name)
        action = UNKNOWN if tool_spec is None else name
        ref = str(arguments.get("id") or "")
        with self._audit_log.call(surface="mcp", action=action, arguments=arguments, sandbox=ref) as entry:
            if tool_spec is None:
                entry.refuse(f"there is no tool {name[:SHOWN]!r}")
                return failed(f"There is no tool {name[:SHOWN]!r}. Available tools: {', '.join(self._tool_specs)}")
            missing = caller().lack(tool_spec.scope)
            if missing:
                entry.refuse(missing)
                return failed(f"{missing}. Ask for a key with the scope {tool_spec.scope}.")
            try:
                return await super().call_tool(name, tool_spec.arguments(arguments), context)
            except ToolError as error:
                refused = _refused_arguments(error)
                if refused is None:
                    entry.fail(cause_below(error))
                else:
                    entry.refuse_arguments(refused)
                return failed(explain(error, name, tool_spec.wire_names))


def explain(error: Exception, what: str, wire_names: dict[str, str] | None = None) -> str:
    """Explain a failure to a model: the cause and the next step of known ones, a request id for unexpected ones.

    Args:
        error: The exception that the SDK raised around the failure.
        what: The tool or resource, for the log.
        wire_names: Names of arguments on the wire, where they differ from the parameters.
    """
    cause = cause_below(error)
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


def cause_below(error: BaseException) -> BaseException:
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
        shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
        lines.append(f"{name}={shown}: {problem['msg']}")
    return "; ".join(lines)


def failed(text: str) -> CallToolResult:
    """Build the result of a call that failed."""
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
