"""Tools that publish ports of sandboxes, so that people can open in a browser what runs inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mcp_server.wire import compact

from .caller import caller
from .tool_spec import SETS, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from mcp_server.ports.published import PublishedPorts


class PortTools:
    """The tools for published ports; `get_sandbox` lists them."""

    def __init__(self, ports: PublishedPorts) -> None:
        self._ports = ports

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [ToolSpec(function=self.publish_port, hints=SETS), ToolSpec(function=self.unpublish_port, hints=SETS)]

    async def publish_port(
        self,
        ref: SandboxRef,
        port: int,
        public: Annotated[bool, Field(description="For everybody, without a signed URL")] = False,
        expires: Annotated[int, Field(description="Seconds; 0 = a day, or never if public")] = 0,
    ) -> str:
        """Return a URL that opens an HTTP server on this port of the sandbox in the user's browser."""
        return compact(await self._ports.publish(caller().org_id, ref, port, public=public, expires_s=expires))

    async def unpublish_port(self, ref: SandboxRef, port: int) -> str:
        """Revoke a port's URLs and end its connections."""
        await self._ports.unpublish(caller().org_id, ref, port)
        return compact({"status": "unpublished"})
