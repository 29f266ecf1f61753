"""A server, as the commands see it: JSON calls, streams of bytes and events, terminals; failures are CliError."""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import anyio
import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from .console import CliError, note
from .errors import failure, refusal
from .values import Object, as_object, as_objects

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping

    from httpx2 import Response, ServerSentEvent
    from websockets.asyncio.client import ClientConnection

CONNECT_S = 5
READ_S = 60
_PAGE = 100
_LONGEST_PAUSE_S = 120
_MOST_EVENT = 16 * 1024 * 1024
_MOST_MESSAGE = 4 * 1024 * 1024

Query = dict[str, str | int]


def route(*parts: str) -> str:
    """A path below /api of parts that may hold anything."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


class Remote:
    """A server and a key.

    Every method raises CliError (Missing for what is not there) when the server refuses or cannot be reached.

    Args:
        url: The server's address, without /api.
        key: The key; none is sent if it is empty.
        key_origin: Where the key came from, for messages.
        near: It is on this machine: no proxy is asked.
    """

    def __init__(self, http: httpx2.AsyncClient, *, url: str, key: str, key_origin: str, loopback: bool) -> None:
        self._http = http
        self._key = key
        self._key_origin = key_origin
        self._loopback = loopback
        self._ready_s = 0.0
        self.url = url

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, key: str, key_origin: str, loopback: bool) -> AsyncGenerator[Remote]:
        """A client for the length of a block."""
        headers = {"X-API-Key": key} if key else {}
        timeout = httpx2.Timeout(READ_S, connect=CONNECT_S)
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout, trust_env=not loopback) as http:
            yield cls(http, url=url, key=key, key_origin=key_origin, loopback=loopback)

    async def call(
        self, method: str, path: str, *, query: Query | None = None, body: Object | None = None, read_s: float = READ_S
    ) -> Any:
        """The JSON of an answer; None if it has no body."""
        async with self.stream(method, path, query=query, body=body, read_s=read_s) as response:
            text = await response.aread()
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError:
            raise CliError(f"{self.url} answered no JSON: is it a Casemate server, and is the URL right?") from None

    async def data(
        self, method: str, path: str, *, query: Query | None = None, body: Object | None = None, read_s: float = READ_S
    ) -> Any:
        """The data in the envelope of an answer."""
        return as_object(await self.call(method, path, query=query, body=body, read_s=read_s)).get("data")

    async def sandboxes(self, labels: str = "") -> list[Object]:
        """All sandboxes that have the labels, newest first."""
        return await self._all(route("sandboxes"), {"labels": labels} if labels else {})

    async def snapshots(self, sandbox: str = "") -> list[Object]:
        """All snapshots, or those of one sandbox, newest first."""
        return await self._all(route("sandboxes", sandbox, "snapshots") if sandbox else route("snapshots"), {})

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Object | None = None,
        content: AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        read_s: float | None = READ_S,
    ) -> AsyncGenerator[Response]:
        """An answer whose body is read in the block.

        Args:
            method: HTTP method.
            path: Of `route`.
            query: Parameters.
            body: Sent as JSON.
            content: Sent as it is.
            headers: More of them.
            read_s: How long the server may be silent; None for ever.
        """
        timeout = httpx2.Timeout(READ_S, connect=CONNECT_S, read=read_s)
        call = self._http.stream(
            method, path, params=query, json=body, content=content, headers=headers, timeout=timeout
        )
        await self._pause()
        try:
            async with call as response:
                self._note_rate_limit(response)
                if not response.is_success:
                    raise await refusal(response, server=self.url, key_origin=self._key_origin)
                yield response
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise failure(error, server=self.url) from None
        except UnicodeEncodeError:
            raise CliError(
                "A name has bytes that are no UTF-8: rename it, or pack what it belongs to with tar"
            ) from None

    @asynccontextmanager
    async def events(self, path: str, body: Object) -> AsyncGenerator[tuple[Response, AsyncIterator[ServerSentEvent]]]:
        """The events of a stream as they come, with the answer that brings them; the server may be silent for ever."""
        headers = {"Accept": "text/event-stream"}
        async with self.stream("POST", path, body=body, headers=headers, read_s=None) as response:
            events = aiter(httpx2.EventSource(response, max_event_size=_MOST_EVENT))
            yield response, events

    @asynccontextmanager
    async def socket(self, path: str, query: Query) -> AsyncGenerator[ClientConnection]:
        """A WebSocket for the length of a block."""
        headers = {"X-API-Key": self._key} if self._key else {}
        address = f"ws{self.url.removeprefix('http')}{path}?{urlencode(query)}"
        proxy = None if self._loopback else True
        try:
            socket = await connect(
                address,
                additional_headers=headers,
                open_timeout=READ_S,  # before it answers, the server may have a machine to wake
                close_timeout=CONNECT_S,
                max_size=_MOST_MESSAGE,
                proxy=proxy,
            )
        except InvalidStatus as error:
            answer = httpx2.Response(
                error.response.status_code,
                headers=list(error.response.headers.raw_items()),
                content=bytes(error.response.body),
            )
            raise await refusal(answer, server=self.url, key_origin=self._key_origin) from None
        except TimeoutError as error:
            raise failure(httpx2.ReadTimeout(str(error)), server=self.url) from None
        except (InvalidHandshake, OSError) as error:
            raise failure(httpx2.ConnectError(str(error)), server=self.url) from None
        try:
            yield socket
        finally:
            with anyio.CancelScope(shield=True):
                await socket.close()

    async def _all(self, path: str, query: Query) -> list[Object]:
        """The rows of all pages."""
        found: list[Object] = []
        page = 1
        while True:
            answer = as_object(await self.call("GET", path, query={**query, "limit": _PAGE, "page": page}))
            rows = as_objects(answer.get("data") or [])
            found += rows
            total = as_object(answer.get("meta") or {}).get("total")
            if not rows or not isinstance(total, int) or page * _PAGE >= total:
                return found
            page += 1

    def _note_rate_limit(self, response: Response) -> None:
        """Remember when the server takes the next request, if this one was the last of its time."""
        reset = response.headers.get("ratelimit-reset", "")
        if response.headers.get("ratelimit-remaining") == "0" and reset.isdecimal():
            self._ready_s = anyio.current_time() + min(int(reset), _LONGEST_PAUSE_S)

    async def _pause(self) -> None:
        seconds = math.ceil(self._ready_s - anyio.current_time())
        if seconds > 0:
            note(f"The server takes no more requests with this key for {seconds} s; waiting.")
            await anyio.sleep_until(self._ready_s)
