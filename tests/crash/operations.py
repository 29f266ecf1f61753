"""What servers are killed at: one call of the fleet each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.fleet import OWNER
from vmm.fleet import Fleet
from vmm.sandboxes.spec import SandboxSpec

SPEC = SandboxSpec(name="box", image="minimal", mem=256)
NEW = "new"
"""The name of what an operation makes."""
FORKS = 2
VOLUME, PLACE = "data", "/data"
"""The name of a volume, and where sandboxes have it."""


async def create(fleet: Fleet) -> None:
    await fleet.sandboxes.create(OWNER, SandboxSpec(name=NEW, image="minimal", mem=256))


async def create_from(fleet: Fleet, snapshot: str) -> None:
    await fleet.sandboxes.create(OWNER, SandboxSpec(name=NEW, image="minimal", mem=256, snapshot=snapshot))


async def delete(fleet: Fleet, sandbox: str) -> None:
    await fleet.sandboxes.delete(OWNER, sandbox)


async def snapshot(fleet: Fleet, sandbox: str) -> None:
    await fleet.snapshots.take(OWNER, sandbox, name=NEW)


async def delete_snapshot(fleet: Fleet, snapshot: str) -> None:
    await fleet.snapshots.delete(OWNER, snapshot)


async def restore(fleet: Fleet, sandbox: str, snapshot: str) -> None:
    await fleet.snapshots.restore(OWNER, sandbox, snapshot)


async def fork(fleet: Fleet, sandbox: str) -> None:
    for one in await fleet.snapshots.fork(OWNER, sandbox, FORKS):
        assert one.sandbox is not None, one.error


async def sleep(fleet: Fleet, sandbox: str) -> None:
    await fleet.lifecycle.sleep(OWNER, sandbox)


async def wake(fleet: Fleet, sandbox: str) -> None:
    await fleet.lifecycle.wake(OWNER, sandbox)


async def restart(fleet: Fleet, sandbox: str) -> None:
    await fleet.lifecycle.restart(OWNER, sandbox)


async def close(fleet: Fleet, sandbox: str) -> None:
    await fleet.sandboxes.update(OWNER, sandbox, network="none")


async def create_volume(fleet: Fleet) -> None:
    await fleet.volumes.create(OWNER, NEW, size=64)


async def copy_volume(fleet: Fleet, sandbox: str) -> None:
    assert await fleet.volumes.list(OWNER, sandbox=sandbox)
    await fleet.volumes.snapshot(OWNER, VOLUME, NEW)


async def delete_volume(fleet: Fleet, volume: str) -> None:
    await fleet.volumes.delete(OWNER, volume)


async def attach_volume(fleet: Fleet, volume: str) -> None:
    await fleet.volumes.attach(OWNER, SPEC.name, volume, PLACE)


async def detach_volume(fleet: Fleet, sandbox: str) -> None:
    await fleet.volumes.detach(OWNER, sandbox, VOLUME)


OPERATIONS: dict[str, Callable[..., Awaitable[None]]] = {
    work.__name__: work
    for work in (
        *(create, create_from, delete, snapshot, delete_snapshot, restore, fork, sleep, wake, restart, close),
        *(create_volume, copy_volume, delete_volume, attach_volume, detach_volume),
    )
}
