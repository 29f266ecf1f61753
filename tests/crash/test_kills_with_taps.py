"""A server with taps, killed at every step of what it does with them: the network of each sandbox is whole or gone.

After each kill, the kernel has a tap, addresses, elements of sets and tracked connections for the sandboxes that run,
and for no others; after all of them, what it had before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from bench.fleet import OWNER, said, this_host
from tests.crash import traces
from tests.crash.operations import FORKS, NEW
from tests.crash.rig import Rig, Subject
from tests.crash.server import Fate, Nursery
from tests.crash.serving import serving
from tests.vmm.network.taps.namespaces import lacking
from tests.vmm.tapped_host import host_and_internet
from tests.waiting import until
from vmm.fleet import Fleet
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

SITE = "198.51.100.7"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Servers, on a host of their own."""
    if why := lacking():
        pytest.skip(f"No taps: {why}")
    with host_and_internet(SITE), Nursery.open() as nursery:
        yield nursery


@pytest.fixture
async def rig(
    nursery: Nursery, templates: Path, tmp_path: Path, catalogue: Catalogue, image_root: Path
) -> AsyncGenerator[Rig]:
    assert "minimal" in catalogue.names()
    data, host = tmp_path / "data", await this_host()
    data.mkdir()
    (data / "templates").symlink_to(templates)
    async with serving(data, image_root, host, taps=True):
        before = traces.rules()
    yield Rig(nursery, data, image_root, host, taps=True)
    async with serving(data, image_root, host, taps=True) as fleet:
        for sandbox in (await fleet.sandboxes.list(OWNER)).items:
            await fleet.sandboxes.delete(OWNER, sandbox.id)
        assert traces.rules() == before
    await until(lambda: not any(traces.of_sandboxes().values()))
    assert traces.sockets() == []
    assert orphans(data) == {}


async def test_a_sandbox_that_was_being_made_has_its_network_or_is_not_there(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        made = [sandbox for sandbox in (await fleet.sandboxes.list(OWNER)).items if sandbox.name == NEW]
        assert len(made) == 1 if fate.survived else len(made) <= 1
        for sandbox in made:
            await reaches(fleet, sandbox.id)
            await fleet.sandboxes.delete(OWNER, sandbox.id)

    assert await rig.kill_at_each_step("create", look) > 4


async def test_a_sandbox_that_was_being_deleted_has_its_network_or_is_gone(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        left = (await fleet.sandboxes.list(OWNER)).items
        assert not (left and fate.survived)
        for sandbox in left:
            await reaches(fleet, sandbox.id)

    assert await rig.kill_at_each_step("delete", look, sandbox=connected(rig)) > 3


async def test_a_sandbox_that_was_falling_asleep_has_its_network_afterwards(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        await reaches(fleet, box.id)

    assert await rig.kill_at_each_step("sleep", look, sandbox=connected(rig)) > 3


async def test_a_sandbox_that_was_waking_has_its_network_afterwards(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        await reaches(fleet, box.id)

    assert await rig.kill_at_each_step("wake", look, sandbox=rig.sleeper) > 3


async def test_forks_that_were_being_made_have_networks_of_their_own_or_are_not_there(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        *children, box = (await fleet.sandboxes.list(OWNER)).items
        assert len(children) == FORKS if fate.survived else len(children) <= FORKS
        for sandbox in (box, *children):
            await reaches(fleet, sandbox.id)
        for child in children:
            await fleet.sandboxes.delete(OWNER, child.id)

    assert await rig.kill_at_each_step("fork", look, sandbox=connected(rig)) > 8


async def test_what_the_kernel_forwards_is_what_the_policy_says_that_is_in_the_record(rig: Rig) -> None:
    async def look(fleet: Fleet, fate: Fate) -> None:
        (box,) = (await fleet.sandboxes.list(OWNER)).items
        assert box.network == "none" if fate.survived else box.network in {"", "none"}
        await fleet.sandboxes.update(OWNER, box.id, network="default")

    assert await rig.kill_at_each_step("close", look, sandbox=connected(rig)) > 1


def connected(rig: Rig) -> Subject:
    """A sandbox that runs, of which the kernel tracks a connection."""

    async def made(fleet: Fleet) -> str:
        box = await rig.box(fleet)
        await reaches(fleet, box)
        return box

    return made


async def reaches(fleet: Fleet, sandbox: str) -> None:
    """Whether datagrams of a sandbox are forwarded; the kernel then tracks a connection of it."""

    async def forwarded() -> bool:
        # Again and again, as programs do: what is sent before the policy is in force is lost.
        await said(fleet, sandbox, f"bash -c 'echo > /dev/udp/{SITE}/9'")
        events = (await fleet.network.get(OWNER, sandbox)).log.last()
        return any(event.allowed and event.destination == f"{SITE}:9/udp" for event in events)

    await until(forwarded)
