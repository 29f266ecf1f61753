from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import ByteStream, SocketStream

from tests.waiting import PATIENCE_S, until
from vmm.errors import LinkError
from vmm.hypervisor import vsock
from vmm.hypervisor.unix_socket import listening
from vmm.hypervisor.vsock import connect_vsock

pytestmark = pytest.mark.anyio

# What the hypervisor does with successive connections.
SILENT, HANGS_UP, REFUSES, ACCEPTS = "silent", "hangs up", "refuses", "accepts"


class Calls:
    """A server that handles successive connections in the given ways; the last way repeats."""

    def __init__(self, ways: Iterator[str]) -> None:
        self._ways = ways
        self._way = SILENT
        self.made = self.open = 0

    async def answer(self, stream: SocketStream) -> None:
        self._way = way = next(self._ways, self._way)
        self.made += 1
        self.open += 1
        async with stream:
            try:
                assert await stream.receive() == b"CONNECT 1024\n"
                if way == REFUSES:
                    await stream.send(b"no such port\n")
                elif way == ACCEPTS:
                    await stream.send(b"OK 1073741824\nhello")
                if way != HANGS_UP:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return  # that connection was abandoned
            finally:
                self.open -= 1


@asynccontextmanager
async def calls(at: Path, *ways: str) -> AsyncGenerator[Calls]:
    found = Calls(iter(ways))
    async with await anyio.create_unix_listener(at) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, found.answer)
        yield found
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "before",
    [(), (HANGS_UP, REFUSES), (SILENT,) * 3, (SILENT, HANGS_UP, SILENT, REFUSES), (HANGS_UP,) * 72],
    ids=["at once", "refused", "not answered", "all of it", "refused for each of many old connections"],
)
async def test_the_first_accepted_connection_is_used(tmp_path: Path, before: tuple[str, ...]) -> None:
    async with calls(tmp_path / "vsock", *before, ACCEPTS) as hypervisor:
        async with await connect_vsock(tmp_path / "vsock") as stream:
            assert await stream.receive() == b"hello"
            # The others are abandoned.
            with anyio.fail_after(PATIENCE_S):
                while hypervisor.open > 1:
                    await anyio.sleep(0.01)
        with anyio.fail_after(PATIENCE_S):
            while hypervisor.open:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("way", [SILENT, HANGS_UP, REFUSES])
async def test_an_agent_that_does_not_listen_is_reported(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vsock, "_GREETING_S", 0.5)
    async with calls(tmp_path / "vsock", way) as hypervisor:
        with pytest.raises(LinkError, match="The guest's agent does not listen"):
            await connect_vsock(tmp_path / "vsock")
        with anyio.fail_after(PATIENCE_S):
            while hypervisor.open:
                await anyio.sleep(0.01)


async def test_a_hypervisor_that_has_ended_is_reported_at_once(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE_S), pytest.raises(LinkError, match="its virtual machine has ended"):
        await connect_vsock(tmp_path / "nobody")


async def test_a_cancelled_call_leaves_nothing_open(tmp_path: Path) -> None:
    async with calls(tmp_path / "vsock", SILENT) as hypervisor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect_vsock, tmp_path / "vsock")
            await until(lambda: hypervisor.made > 1)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            while hypervisor.open:
                await anyio.sleep(0.01)


async def test_a_stream_that_is_cancelled_while_its_answer_arrives_logs_no_error(tmp_path: Path) -> None:
    errors: list[dict[str, object]] = []
    hypervisors: list[socket.socket] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    given_up = anyio.CancelScope()

    async def listen(stream: ByteStream) -> None:
        with given_up:
            await stream.receive()

    with listening(tmp_path / "vsock") as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, _accept, listener, hypervisors)
            async with await connect_vsock(tmp_path / "vsock") as stream:
                tasks.start_soon(listen, stream)
                await anyio.wait_all_tasks_blocked()
                hypervisors[0].send(b"hello")
                await asyncio.sleep(0)
                given_up.cancel()
                await anyio.wait_all_tasks_blocked()
        hypervisors[0].close()
    assert errors == []


def _accept(listener: socket.socket, accepted: list[socket.socket]) -> None:
    hypervisor, _ = listener.accept()
    assert hypervisor.recv(64)
    accepted.append(hypervisor)
    hypervisor.send(b"OK 1073741824\n")
