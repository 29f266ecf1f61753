from __future__ import annotations

import re
import secrets
import time
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream

from tests.vmm.guest.agents import Agent, agent
from tests.waiting import until
from vmm.errors import InvalidInput, LinkError
from vmm.guest.link import GuestLink
from vmm.guest.values import Command, Identity

pytestmark = pytest.mark.anyio


@pytest.fixture
def guest(tmp_path: Path) -> Generator[Agent]:
    """A separate agent, because its secret changes."""
    with agent(tmp_path) as running:
        yield running


class Overheard(ByteStream):
    """A connection that records what is sent on it."""

    def __init__(self, stream: ByteStream, sent: list[bytes]) -> None:
        self._stream = stream
        self._sent = sent

    async def send(self, item: bytes) -> None:
        self._sent.append(item)
        await self._stream.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def identity(**more: object) -> Identity:
    values: dict[str, object] = {
        "entropy": secrets.token_bytes(64),
        "machine_id": secrets.token_hex(16),
        "hostname": "clone",
        "secret": secrets.token_bytes(32),
    }
    return Identity(**(values | more))  # pyright: ignore[reportArgumentType]


async def test_a_new_identity_closes_the_old_secret_and_its_connections(guest: Agent, link: GuestLink) -> None:
    other = guest.link()
    await other.ping()
    nonce = (await link.ping()).nonce
    fresh = identity()
    certificate = await link.identify(fresh)
    assert certificate.nonce == nonce
    assert not certificate.entropy_mixed  # It may not, and reports that.
    assert (await link.ping()).nonce == nonce
    with pytest.raises(LinkError):
        await other.ping()
    late = guest.link(fresh.secret)
    await late.ping()
    for used in (other, late):
        await used.aclose()


async def test_the_secret_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    with agent(tmp_path) as first:
        link = first.link()
        fresh = identity()
        await link.identify(fresh)
        await link.aclose()
    assert (tmp_path / "secret").read_text().strip() == fresh.secret.hex()
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


async def test_running_processes_continue_under_the_new_identity(guest: Agent, link: GuestLink, tmp_path: Path) -> None:
    other = guest.link()
    line = f"until test -e {tmp_path}/go; do sleep 0.02; done; echo done"

    async def run() -> None:
        with pytest.raises(LinkError):
            await other.exec(Command(shell=line), wait_ms=300_000)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(link.processes)
        await link.identify(identity())
    (info,) = await link.processes()
    (tmp_path / "go").touch()
    assert (await link.wait(info.pid, wait_ms=300_000)).stdout.data() == b"done\n"
    await other.aclose()


@pytest.mark.parametrize(
    "wrong",
    [
        {"entropy": b"short"},
        {"secret": b"short"},
        {"machine_id": "A" * 32},
        {"machine_id": "a" * 31},
        {"hostname": ""},
        {"hostname": "x" * 64},
    ],
)
async def test_an_incomplete_identity_changes_nothing(link: GuestLink, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        await link.identify(identity(**wrong))
    await link.drop_connections()
    await link.ping()


async def test_the_guest_gets_the_time_at_which_it_is_connected(guest: Agent) -> None:
    sent: list[bytes] = []
    ready_ns: list[int] = []

    async def slowly() -> ByteStream:
        stream = await anyio.connect_tcp("127.0.0.1", guest.port)
        await anyio.sleep(0.2)
        ready_ns.append(time.time_ns())
        return Overheard(stream, sent)

    link = GuestLink(slowly, guest.secret)
    for tell in (lambda: link.identify(identity()), link.set_clock):
        await link.drop_connections()
        await tell()
        (told,) = re.findall(rb'"clock_ns": ?(\d+)', b"".join(sent))
        assert ready_ns[-1] <= int(told) <= time.time_ns()
        sent.clear()
    await link.aclose()


async def test_the_metrics_are_plausible(guest: Agent, link: GuestLink) -> None:
    metrics = await link.metrics()
    assert metrics.memory_total > metrics.memory_available > 0
    assert metrics.disk_total >= metrics.disk_free > 0
    assert metrics.uptime_ms > 0
    assert metrics.cpu_used_ms > 0
    assert metrics.processes > 1
    assert abs(metrics.agent_memory - guest.resident()) < 4 * 1024 * 1024
    await link.set_clock()
