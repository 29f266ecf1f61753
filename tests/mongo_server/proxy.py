"""Stands between driver and server and does what networks and elections do, to chosen commands only."""

from __future__ import annotations

import re
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import bson
from anyio.abc import SocketAttribute, SocketStream, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream
from bson.raw_bson import RawBSONDocument

NOT_PRIMARY = {"ok": 0, "errmsg": "not primary", "code": 10107, "codeName": "NotWritablePrimary"}
_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a command instead of its answer.

    Attributes:
        command: The command's name.
        applied: The server gets it, and its answer is lost; otherwise it never gets there.
        reply: Sent in place of the answer; None cuts the connection.
        hold: Nothing is sent until the driver gives up, and only then the command is passed on if it is to be applied.
        times: How many commands it happens to.
        meanwhile: Awaited before the driver learns of it.
        late: Only that is done to the command: it is passed on after `meanwhile`, and its answer too.
    """

    command: str
    applied: bool
    reply: Mapping[str, Any] | None = None
    hold: bool = False
    times: int = 1
    meanwhile: Callable[[], Awaitable[object]] | None = None
    late: bool = False


class Proxy:
    """Passes on what no fault is set for; made by `proxied`.

    Attributes:
        met: How many commands a fault happened to.
    """

    def __init__(self, uri: str, tasks: TaskGroup) -> None:
        hosts = re.fullmatch(r"mongodb://(?:[^@/]*@)?([^:/,?]+):?(\d*)(.*)", uri)
        assert hosts is not None, "The proxy needs an address of one server"
        self._upstream = (hosts[1], int(hosts[2] or 27017))
        self._uri = uri
        self._tasks = tasks
        self._fault: Fault | None = None
        self._serving: anyio.CancelScope | None = None
        self.port = 0
        self.met = 0

    @property
    def uri(self) -> str:
        """The server's address with the proxy's in its place."""
        head, _, options = self._uri.partition("?")
        at = re.sub(r"(?<=//)([^@/]*@)?[^/]+", rf"\g<1>127.0.0.1:{self.port}", head)
        return f"{at.rstrip('/')}/?{options}{'&' if options else ''}directConnection=true&serverMonitoringMode=poll"

    def plan(self, fault: Fault) -> None:
        """Let this happen to the next command of that name."""
        self._fault = fault
        self.met = 0

    async def start(self) -> None:
        """Listen, on the same port as before."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(SocketAttribute.local_port)
        self._serving = anyio.CancelScope()

        async def serve(scope: anyio.CancelScope) -> None:
            with scope:
                async with listener:
                    await listener.serve(self._serve)

        self._tasks.start_soon(serve, self._serving)

    async def stop(self) -> None:
        """Cut every connection and refuse new ones."""
        if self._serving is not None:
            self._serving.cancel()
            self._serving = None
            await anyio.wait_all_tasks_blocked()

    async def _serve(self, client: SocketStream) -> None:
        async with client, await anyio.connect_tcp(*self._upstream) as server:
            requests, answers = BufferedByteReceiveStream(client), BufferedByteReceiveStream(server)
            try:
                while True:
                    request = await _message(requests)
                    fault = self._meets(request)
                    if fault is not None and fault.late and fault.meanwhile is not None:
                        await fault.meanwhile()
                    if fault is None or fault.late:
                        await server.send(request)
                        await client.send(await _message(answers))
                        continue
                    if fault.hold:
                        await self._hold(client)
                    if fault.applied:
                        await server.send(request)
                        await _message(answers)
                    if fault.meanwhile is not None:
                        await fault.meanwhile()
                    if fault.reply is None:
                        return
                    await client.send(_answer(request, fault.reply))
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                # One of the two hung up; the other is hung up on.
                return

    async def _hold(self, client: SocketStream) -> None:
        try:
            await client.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return

    def _meets(self, request: bytes) -> Fault | None:
        fault = self._fault
        if fault is None or fault.command != _command(request):
            return None
        self._fault = replace(fault, times=fault.times - 1) if fault.times > 1 else None
        self.met += 1
        return fault


@asynccontextmanager
async def proxied(uri: str) -> AsyncGenerator[Proxy]:
    """A proxy before the server of that address."""
    async with anyio.create_task_group() as tasks:
        proxy = Proxy(uri, tasks)
        await proxy.start()
        yield proxy
        await proxy.stop()


async def _message(stream: BufferedByteReceiveStream) -> bytes:
    head = await stream.receive_exactly(4)
    return head + await stream.receive_exactly(int.from_bytes(head, "little") - 4)


def _command(message: bytes) -> str:
    if _HEADER.unpack_from(message)[3] != _OP_MSG:
        return ""
    # Flags, the kind of the first section, then the command as one document.
    start = _HEADER.size + 5
    size = int.from_bytes(message[start : start + 4], "little")
    return next(iter(RawBSONDocument(message[start : start + size])))


def _answer(request: bytes, reply: Mapping[str, Any]) -> bytes:
    body = bytes(5) + bson.encode(reply)
    return _HEADER.pack(_HEADER.size + len(body), 0, _HEADER.unpack_from(request)[1], _OP_MSG) + body
