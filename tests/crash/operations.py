"""What servers are killed at: one call of the fleet each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.fleet import OWNER
from vmm.fleet import Fleet
from vmm.spec import SandboxSpec

SPEC = SandboxSpec(name="box", image="minimal", mem=256)
NEW = "new"
"""The name of sandboxes that an operation makes."""


async def create(fleet: Fleet) -> None:
    await fleet.create(OWNER, SandboxSpec(name=NEW, image="minimal", mem=256))


async def delete(fleet: Fleet, sandbox: str) -> None:
    await fleet.delete(OWNER, sandbox)


OPERATIONS: dict[str, Callable[..., Awaitable[None]]] = {"create": create, "delete": delete}
