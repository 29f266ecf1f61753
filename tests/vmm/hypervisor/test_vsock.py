from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from vmm.errors import LinkError
from vmm.hypervisor import vsock
from vmm.hypervisor.vsock import connect_vsock

pytestmark = pytest.mark.anyio

# What a hypervisor does with one call after another.
SILENT, HANGS_UP, REFUSES, ACCEPTS = "silent", "hangs up", "refuses", "accepts"


class Calls:
    """A socket that treats calls as told, the last way for ever."""

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
                return  # that call was given up
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
async def test_the_first_call_that_is_accepted_is_taken(tmp_path: Path, before: tuple[str, ...]) -> None:
    async with calls(tmp_path / "vsock", *before, ACCEPTS) as hypervisor:
        async with await connect_vsock(tmp_path / "vsock") as stream:
            assert await stream.receive() == b"hello"
            # The others are given up.
            with anyio.fail_after(5):
                while hypervisor.open > 1:
                    await anyio.sleep(0.01)
        with anyio.fail_after(5):
            while hypervisor.open:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("way", [SILENT, HANGS_UP, REFUSES])
async def test_an_agent_that_does_not_listen_is_said(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsock, "_GREETING_S", 0.5)
    async with calls(tmp_path / "vsock", way) as hypervisor:
        with pytest.raises(LinkError, match="The guest's agent does not listen"):
            await connect_vsock(tmp_path / "vsock")
        with anyio.fail_after(5):
            while hypervisor.open:
                await anyio.sleep(0.01)


async def test_a_hypervisor_that_has_ended_is_said_at_once(tmp_path: Path) -> None:
    with anyio.fail_after(1), pytest.raises(LinkError, match="its virtual machine has ended"):
        await connect_vsock(tmp_path / "nobody")


async def test_a_call_that_is_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    async with calls(tmp_path / "vsock", SILENT) as hypervisor:
        with anyio.move_on_after(2):
            await connect_vsock(tmp_path / "vsock")
        assert hypervisor.made > 1
        with anyio.fail_after(5):
            while hypervisor.open:
                await anyio.sleep(0.01)
