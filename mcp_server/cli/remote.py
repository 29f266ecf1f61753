"""Client for a server: JSON calls, byte and event streams, and WebSockets; failures raise CliError."""

from __future__ import annotations

import json
import math
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

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
    """Return a path below /api, with each part percent-encoded."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


class Remote:
    """A connection to a server with a key.

    Every method raises CliError if the server returns an error or cannot be reached, and Missing on a 404.

    Args:
        url: The server's address, without /api.
        key: The API key; none is sent if it is empty.
        key_origin: Where the key came from, for messages.
        loopback: Whether the server is on this host, so that no proxy is used.
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
        """Open a client and close it when the block ends."""
        headers = {"X-API-Key": key} if key else {}
        timeout = httpx2.Timeout(READ_S, connect=CONNECT_S)
        # Reading the host's authorities takes longer than most calls, and only TLS needs them.
        verify = True if urlsplit(url).scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with httpx2.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, trust_env=not loopback, verify=verify
        ) as http:
            yield cls(http, url=url, key=key, key_origin=key_origin, loopback=loopback)

    async def call(
        self, method: str, path: str, *, query: Query | None = None, body: Object | None = None, read_s: float = READ_S
    ) -> Any:
        """Send a request and return the JSON of the response; None if it has no body."""
        async with self.stream(method, path, query=query, body=body, read_s=read_s) as response:
            text = await response.aread()
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError:
            raise CliError(
                f"{self.url} did not answer with JSON: is it a Casemate server, and is the URL right?"
            ) from None

    async def data(
        self, method: str, path: str, *, query: Query | None = None, body: Object | None = None, read_s: float = READ_S
    ) -> Any:
        """Send a request and return the `data` field of the response."""
        return as_object(await self.call(method, path, query=query, body=body, read_s=read_s)).get("data")

    async def sandboxes(self, labels: str = "") -> list[Object]:
        """Return all sandboxes with the labels, newest first."""
        return await self._all(route("sandboxes"), {"labels": labels} if labels else {})

    async def snapshots(self, sandbox: str = "") -> list[Object]:
        """Return all snapshots, or those of one sandbox, newest first."""
        return await self._all(route("sandboxes", sandbox, "snapshots") if sandbox else route("snapshots"), {})

    async def volumes(self, sandbox: str = "") -> list[Object]:
        """Return all volumes, or those of one sandbox, by name."""
        return await self._all(route("sandboxes", sandbox, "volumes") if sandbox else route("volumes"), {})

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
        """Send a request and yield the response, whose body the block reads.

        Args:
            method: HTTP method.
            path: Path built by `route`.
            query: Query parameters.
            body: JSON body.
            content: Raw body.
            headers: Additional headers.
            read_s: Read timeout in seconds; None for no timeout.
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
                "A file name is not valid UTF-8: rename the file, or copy the directory that contains it"
            ) from None

    @asynccontextmanager
    async def events(self, path: str, body: Object) -> AsyncGenerator[tuple[Response, AsyncIterator[ServerSentEvent]]]:
        """Yield a response and its server-sent events, without a read timeout."""
        headers = {"Accept": "text/event-stream"}
        async with self.stream("POST", path, body=body, headers=headers, read_s=None) as response:
            events = aiter(httpx2.EventSource(response, max_event_size=_MOST_EVENT))
            yield response, events

    @asynccontextmanager
    async def socket(self, path: str, query: Query) -> AsyncGenerator[ClientConnection]:
        """Open a WebSocket and close it when the block ends."""
        headers = {"X-API-Key": self._key} if self._key else {}
        address = f"ws{self.url.removeprefix('http')}{path}?{urlencode(query)}"
        proxy = None if self._loopback else True
        try:
            socket = await connect(
                address,
                additional_headers=headers,
                open_timeout=READ_S,  # the server may have to wake a sandbox first
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
        """Return the items of all pages."""
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
        """Remember when the rate limit resets, if this response used it up."""
        reset = response.headers.get("ratelimit-reset", "")
        if response.headers.get("ratelimit-remaining") == "0" and reset.isdecimal():
            self._ready_s = anyio.current_time() + min(int(reset), _LONGEST_PAUSE_S)

    async def _pause(self) -> None:
        seconds = math.ceil(self._ready_s - anyio.current_time())
        if seconds > 0:
            note(f"Rate limit reached; waiting {seconds} s.")
            await anyio.sleep_until(self._ready_s)
