"""Calls to a silent guest end soon after their own time; calls to a slow one do not."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream

from tests.vmm.guest.agents import Agent, agent
from vmm.errors import LinkTimeout
from vmm.guest.link import GuestLink
from vmm.guest.values import KIB, MIB, Command
from vmm.guest.vitality import GRACE, Grace

pytestmark = pytest.mark.anyio

QUICK = Grace(ask_s=0.05, beat_s=0.1, beats=3, living_s=math.inf)
"""For a stopped guest: only silence ends a call."""
CALM = Grace(ask_s=0.05, beat_s=0.05, beats=400, living_s=math.inf)
"""For a living guest on a busy host: it is pinged soon, and calls wait for twenty seconds."""
SILENT = "gives no sign of life"


@pytest.fixture
def guest(tmp_path: Path) -> Generator[Agent]:
    with agent(tmp_path) as running:
        yield running


@pytest.fixture
async def link(guest: Agent) -> AsyncGenerator[GuestLink]:
    link = guest.link(grace=QUICK)
    yield link
    await link.aclose()


class Late(ByteStream):
    """A connection that holds back answers while its gate is closed."""

    def __init__(self, stream: SocketStream, dials: Dials) -> None:
        self._stream = stream
        self._dials = dials

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self._dials.gate.wait()
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes


class Dials:
    """Connections to an agent; the first one is delayed if its gate is replaced by a closed one."""

    def __init__(self, guest: Agent) -> None:
        self.gate = anyio.Event()
        self.gate.set()
        self.count = 0
        self._port = guest.port

    async def __call__(self) -> ByteStream:
        self.count += 1
        stream = await anyio.connect_tcp("127.0.0.1", self._port)
        return Late(stream, self) if self.count == 1 else stream


def test_a_call_to_a_silent_guest_ends_within_five_seconds_of_its_own_time() -> None:
    assert GRACE.ask_s + GRACE.silence_s < 5
    assert GRACE.living_s > GRACE.ask_s + GRACE.silence_s


async def test_every_kind_of_call_to_a_guest_that_falls_silent_ends(
    guest: Agent, link: GuestLink, tmp_path: Path
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(100 * KIB * MIB)
    ticking = await link.start(Command(shell="while :; do echo tick; sleep 0.01; done"), open_stdin=True)
    terminal = await link.terminal_open()
    stopped = anyio.Event()

    async def follow() -> None:
        async with link.attach(ticking.pid) as chunks:
            async for _ in chunks:
                pass

    async def upload() -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield b"begun"
            await stopped.wait()
            while True:
                yield bytes(MIB)

        await link.write_stream(f"{tmp_path}/never", endless())

    async def upload_that_is_complete() -> None:
        async def short() -> AsyncIterator[bytes]:
            await stopped.wait()
            yield b"all of it"

        await link.write_stream(f"{tmp_path}/never", short())

    async def download() -> None:
        async with link.open_read(str(tmp_path / "large")) as (_, pieces):
            async for _ in pieces:
                pass

    under_way: list[Callable[[], Awaitable[object]]] = [
        lambda: link.exec(Command(shell="sleep 100"), wait_ms=5000),
        follow,
        upload,
        upload_that_is_complete,
        download,
    ]
    later: list[Callable[[], Awaitable[object]]] = [
        lambda: link.stat("/etc/passwd"),
        lambda: link.exec(Command(shell="true"), wait_ms=10**9),
        lambda: link.wait(ticking.pid, wait_ms=10**9),
        lambda: link.read_output(ticking.pid, wait_ms=10**9),
        lambda: link.terminal_read(terminal.terminal_id, wait_ms=10**9),
        lambda: link.write_file(f"{tmp_path}/never", bytes(4 * MIB)),
        lambda: link.delete(str(tmp_path), recursive=True),
        link.metrics,
        link.activity,
    ]
    ended = 0

    async def is_broken_off(call: Callable[[], Awaitable[object]]) -> None:
        nonlocal ended
        with pytest.raises(LinkTimeout, match=SILENT):
            await call()
        ended += 1

    async with anyio.create_task_group() as tasks:
        for call in under_way:
            tasks.start_soon(is_broken_off, call)
        await anyio.wait_all_tasks_blocked()
        assert link.silent_s == 0
        with guest.stopped():
            stopped.set()
            while ended < len(under_way):
                await anyio.sleep(0.01)
            assert link.silent_s > 0
            for call in later:
                await is_broken_off(call)
    while not await link.answers():
        pass
    assert link.silent_s == 0
    assert (await link.exec(Command(shell="echo back"), wait_ms=20_000)).stdout.data() == b"back\n"


async def test_anything_that_a_guest_sends_is_a_sign_of_life(guest: Agent, link: GuestLink) -> None:
    with guest.stopped():
        assert not await link.answers()
        assert link.silent_s > 0
    await link.ping(timeout_ms=20_000)
    assert link.silent_s == 0


async def test_a_guest_whose_agent_has_ended_is_silent(guest: Agent) -> None:
    closed = GuestLink(lambda: anyio.connect_tcp("127.0.0.1", 1), guest.secret, grace=QUICK)
    assert not await closed.answers()
    assert closed.silent_s > 0
    await closed.aclose()


async def test_a_call_waits_for_a_slow_answer_of_a_living_guest(guest: Agent) -> None:
    dials = Dials(guest)
    link = GuestLink(dials, guest.secret, grace=CALM)
    said: list[bytes] = []
    await link.ping(timeout_ms=20_000)
    dials.gate = anyio.Event()

    async def slow() -> None:
        said.append((await link.exec(Command(shell="echo late"), wait_ms=0)).stdout.data())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow)
        await anyio.wait_all_tasks_blocked()
        for _ in range(20):
            assert await link.answers()
        assert said == []
        dials.gate.set()
    assert len(said) == 1
    assert link.silent_s == 0
    await link.aclose()


async def test_every_call_ends_even_to_a_living_guest(guest: Agent) -> None:
    dials = Dials(guest)
    link = GuestLink(dials, guest.secret, grace=Grace(ask_s=0.05, beat_s=0.05, beats=400, living_s=2))
    await link.ping(timeout_ms=20_000)
    dials.gate = anyio.Event()
    with pytest.raises(LinkTimeout, match="'stat'"):
        await link.stat("/etc/passwd")
    assert link.silent_s == 0
    await link.aclose()


async def test_a_guest_that_the_host_pauses_does_not_count_as_silent(guest: Agent, link: GuestLink) -> None:
    other = guest.link(grace=QUICK)
    found: list[str] = []

    async def look() -> None:
        found.append((await link.stat("/etc/passwd")).path)

    async with anyio.create_task_group() as tasks:
        with link.held():
            with guest.stopped():
                tasks.start_soon(look)
                for _ in range(3):
                    assert not await other.answers()
            while not found:
                await anyio.sleep(0.01)
    assert found == ["/etc/passwd"]
    assert link.silent_s == 0
    await other.aclose()


async def test_many_waiting_calls_share_one_ping(guest: Agent) -> None:
    dials = Dials(guest)
    link = GuestLink(dials, guest.secret, grace=QUICK, max_idle=0)

    async def wait() -> None:
        with pytest.raises(LinkTimeout, match=SILENT):
            await link.stat("/etc/passwd")

    with guest.stopped():
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(wait)
    assert dials.count < 60
    await link.aclose()
