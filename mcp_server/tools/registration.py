"""Turns declarations of tools into the SDK's tools, whose schemas are made once for all servers of the process."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from mcp.server.mcpserver.tools import Tool

from .tool_spec import ToolSpec

_made: dict[Callable[..., Any], Tool] = {}
"""By the function that is declared: making a schema takes longer than a call of the tool."""


def registered(tool_spec: ToolSpec, *, structured: bool = False) -> Tool:
    """Return the SDK's tool of a declaration.

    Args:
        tool_spec: The declaration.
        structured: Whether its results are objects with a schema, instead of texts; the same in every call for it.
    """
    method = tool_spec.function
    function = getattr(method, "__func__", method)
    made = _made.get(function)
    if made is None:
        made = Tool.from_function(
            method,
            description=tool_spec.description,
            annotations=tool_spec.hints,
            structured_output=structured,
        )
        # Without the object that the method belongs to, which may be over before the process is.
        _made[function] = made = made.model_copy(update={"fn": function})
    tool = made.model_copy(update={"fn": method, "parameters": deepcopy(made.parameters)})
    tool_spec.simplify(tool.parameters)
    return tool
