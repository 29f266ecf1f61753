"""The local owner's sandboxes as the command line sees them: through the running server, or through the fleet itself.

Only one process may work on a data directory. While a server does, it is asked over MCP with the local key; when none
does, the parts are put together here for as long as the command takes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from mcp_server.app import open_parts
from mcp_server.occupancy import holder_url
from mcp_server.snippets import ENDPOINT
from mcp_server.wire import sandbox_object

from .console import Trouble

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mcp_server.settings import Settings
    from vmm.fleet import Fleet

_PAGE = 100
_CONNECT_S = 5
_READ_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A sandbox in the list. Memory in MiB."""

    id: str
    name: str
    status: str
    image: str
    cpu: int
    mem: int
    created: str

    @classmethod
    def of(cls, shown: dict[str, Any]) -> Row:
        """The row of a sandbox as it looks on the wire."""
        names = ("id", "name", "status", "image", "cpu", "mem")
        return cls(created=shown["createdAt"], **{name: shown[name] for name in names})


class Desk(ABC):
    """What the command line may do with sandboxes."""

    @abstractmethod
    async def rows(self) -> list[Row]:
        """All sandboxes, newest first."""

    @abstractmethod
    async def remove(self, ref: str) -> None:
        """End one, by id or name."""


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncGenerator[Desk]:
    """The way to the sandboxes that is open now.

    Raises:
        Trouble: There is no key yet, or the server does not answer.
    """
    if not settings.key_file.exists():
        raise Trouble(f"There is no key at {settings.key_file} yet: casemate serve makes one on its first start")
    url = holder_url(settings.data)
    if not url:
        async with open_parts(settings) as parts:
            yield _Fleet(parts.fleet, parts.owner)
        return
    key = settings.key_file.read_text().strip()
    timeout = httpx2.Timeout(_CONNECT_S, read=_READ_S)
    async with httpx2.AsyncClient(headers={"X-API-Key": key}, timeout=timeout) as http:
        try:
            await http.get(f"{url}/health")
        except httpx2.HTTPError as error:
            raise Trouble(f"The server at {url} does not answer ({error}): look at its log, or stop it") from None
        async with Client(streamable_http_client(f"{url}{ENDPOINT}", http_client=http), mode="2026-07-28") as client:
            yield _Server(client)


class _Server(Desk):
    def __init__(self, client: Client) -> None:
        self._client = client

    async def rows(self) -> list[Row]:
        rows: list[Row] = []
        page = 1
        while True:
            found = await self._call("list_sandboxes", {"page": page, "limit": _PAGE})
            rows += [Row.of(shown) for shown in found["sandboxes"]]
            if page * _PAGE >= found["total"]:
                return rows
            page += 1

    async def remove(self, ref: str) -> None:
        await self._call("delete_sandbox", {"id": ref})

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = await self._client.call_tool(tool, arguments)
        text = "".join(block.text for block in result.content if isinstance(block, TextContent))
        if result.is_error:
            raise Trouble(text)
        return json.loads(text)


class _Fleet(Desk):
    def __init__(self, fleet: Fleet, owner: str) -> None:
        self._fleet = fleet
        self._owner = owner

    async def rows(self) -> list[Row]:
        rows: list[Row] = []
        page = 1
        while True:
            found = await self._fleet.list(self._owner, page=page, limit=_PAGE)
            rows += [Row.of(sandbox_object(item)) for item in found.items]
            if page * _PAGE >= found.total:
                return rows
            page += 1

    async def remove(self, ref: str) -> None:
        await self._fleet.delete(self._owner, ref)
