"""The MCP resources: the list of sandboxes, one sandbox, and any file in a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp.server.mcpserver.resources import ResourceSecurity

from vmm.errors import InvalidInput
from vmm.sandboxes.sandbox import State

from ..wire import compact, sandbox_shown
from .caller import caller

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from vmm.fleet import Fleet

_PAGE = 100
_FILE_MOST = 4 * 1024 * 1024


def add_resources(server: MCPServer[None], fleet: Fleet) -> None:
    """Register a fleet's sandboxes and their files as resources of an MCP server."""

    async def sandboxes() -> str:
        """Your sandboxes, newest first, at most the first hundred."""
        found = await fleet.sandboxes.list(caller().org_id, page=1, limit=_PAGE)
        items = [sandbox_shown(item) for item in found.items if item.state is not State.CREATING]
        return compact({"total": found.total, "sandboxes": items})

    async def sandbox(id: str) -> str:  # noqa: A002 - named as in the template
        """One sandbox, by id or name."""
        return compact(sandbox_shown(await fleet.sandboxes.get(caller().org_id, id)))

    async def sandbox_file(id: str, path: str) -> str | bytes:  # noqa: A002 - named as in the template
        """A file in a sandbox: text, or a blob if it is binary. The path is absolute; its first slash is optional."""
        part = await fleet.guest.read_file(caller().org_id, id, "/" + path.lstrip("/"), length=_FILE_MOST)
        if part.more:
            raise InvalidInput(
                f"The file has {part.size or f'more than {part.end}'} bytes, a resource can have at most {_FILE_MOST}",
                hint="Read it in parts with the tool read_file",
            )
        try:
            text = part.data.decode()
        except UnicodeDecodeError:
            return part.data
        return part.data if "\0" in text else text

    server.resource("casemate://sandboxes", name="Sandboxes", mime_type="application/json")(sandboxes)
    server.resource("casemate://sandbox/{id}", name="Sandbox", mime_type="application/json")(sandbox)
    server.resource(
        "casemate://sandbox/{id}/files/{+path}",
        name="Sandbox file",
        # The path is resolved inside the guest, where ".." and leading slashes are harmless.
        security=ResourceSecurity(exempt_params=frozenset({"path"})),
    )(sandbox_file)
