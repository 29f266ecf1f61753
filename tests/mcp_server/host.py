"""A sandbox without a virtual machine: the real agent on this host, the real link, behind the fleet's interface.

What the tools make of a guest is tested on it in seconds; that the fleet brings guests about is tested elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

import vmm.agent
from storage.ids import new_id
from tests.vmm.guest.agents import users_at
from vmm import lease
from vmm.errors import Conflict, HostExhausted, NotFound
from vmm.forks import Fork, check_count, child_names
from vmm.guest.link import GuestLink
from vmm.guest_calls import GuestCalls
from vmm.record_calls import Page
from vmm.sandbox import Sandbox, State
from vmm.snapshots import Snapshot, Snapshots
from vmm.spec import SandboxSpec, check_labels, check_name
from vmm.usage import Usage

SANDBOX = "0123456789abcdef01234567"
NAME = "box"
ALICE = "a" * 24


class OneHost(GuestCalls):
    """Alice has one sandbox, `box`: this host. Nobody else has any. Snapshots of it have names, and hold nothing."""

    def __init__(self, link: GuestLink, snapshots: Snapshots) -> None:
        self._link = link
        self._kept = snapshots
        spec = SandboxSpec(name=NAME, env={"FROM_SANDBOX": "yes"})
        self._sandboxes = [Sandbox.new(SANDBOX, ALICE, spec, now_ms=0).moved(State.RUNNING, now_ms=0)]

    def images(self) -> tuple[str, ...]:
        return ("code", "minimal")

    async def create(self, owner: str, spec: SandboxSpec, *, on_progress: object = None) -> Sandbox:
        """One more name for this host."""
        spec.check(self.images())
        lease.check_ttl(spec.ttl_s)
        lease.check_idle(spec.idle_s)
        base = (await self._kept.find(owner, spec.snapshot)).id if spec.snapshot else ""
        sandbox = Sandbox.new(new_id(), owner, spec, now_ms=0).moved(State.RUNNING, now_ms=0)
        self._sandboxes.insert(0, replace(sandbox, base=base))
        return self._sandboxes[0]

    async def get(self, owner: str, ref: str) -> Sandbox:
        for sandbox in self._sandboxes:
            if sandbox.owner == owner and ref in {sandbox.id, sandbox.name}:
                return sandbox
        raise NotFound(f"There is no sandbox {ref[:80]!r}", hint="List the sandboxes, or create one")

    async def list(
        self, owner: str, *, labels: Mapping[str, str] | None = None, page: int = 1, limit: int = 20
    ) -> Page:
        owned = [sandbox for sandbox in self._sandboxes if sandbox.owner == owner]
        return Page.of(owned, labels=labels, page=page, limit=limit)

    async def update(
        self,
        owner: str,
        ref: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        auto_sleep: bool | None = None,
        ttl_s: int | None = None,
        idle_s: int | None = None,
    ) -> Sandbox:
        if name is not None:
            check_name(name)
        if labels is not None:
            check_labels(labels)
        if idle_s is not None:
            lease.check_idle(idle_s)
        old = await self.get(owner, ref)
        new = old if ttl_s is None else lease.renewed(old, ttl_s, 0)
        return self._changed(
            old,
            replace(
                new,
                name=old.name if name is None else name,
                labels=old.labels if labels is None else labels,
                auto_sleep=old.auto_sleep if auto_sleep is None else auto_sleep,
                idle_s=old.idle_s if idle_s is None else idle_s,
            ),
        )

    async def sleep(self, owner: str, ref: str) -> Sandbox:
        old = await self.get(owner, ref)
        if old.state is State.ASLEEP:
            return old
        return self._changed(old, lease.asleep(old.moved(State.ASLEEP, now_ms=1000), 1000))

    async def wake(self, owner: str, ref: str) -> Sandbox:
        old = await self.get(owner, ref)
        if old.state is State.KILLED:
            raise Conflict(f"Sandbox {old.id} is killed", hint="Start it")
        return old if old.state is State.RUNNING else self._changed(old, self._awake(old))

    async def revive(self, owner: str, ref: str) -> Sandbox:
        old = await self.get(owner, ref)
        reason = "started from its disk; its memory is lost" if old.state is State.KILLED else ""
        return self._changed(old, replace(self._awake(old), reason=reason))

    async def kill(self, owner: str, ref: str) -> None:
        """What a hypervisor that ends does to a record."""
        old = await self.get(owner, ref)
        self._changed(old, old.moved(State.KILLED, now_ms=0, reason="its virtual machine ended"))

    async def snapshot(
        self, owner: str, ref: str, *, name: str = "", labels: Mapping[str, str] | None = None, created_by: str = ""
    ) -> Snapshot:
        if name:
            check_name(name)
        check_labels(labels or {})
        sandbox = await self.get(owner, ref)
        snapshot = Snapshot(
            id=new_id(),
            owner=owner,
            sandbox=sandbox.id,
            sandbox_name=sandbox.name,
            name=name or f"{sandbox.name}-1",
            parent=sandbox.base,
            image=sandbox.image,
            cpu=sandbox.cpu,
            mem=sandbox.mem,
            disk=sandbox.disk,
            driver="none-1",
            labels=dict(labels or {}),
            created_ms=5000,
            created_by=created_by,
        )
        return await self._kept.publish(snapshot, await self._kept.draft(snapshot.id))

    async def snapshots(self, owner: str, *, sandbox: str = "") -> tuple[Snapshot, ...]:
        wanted = (await self.get(owner, sandbox)).id if sandbox else ""
        return tuple(one for one in await self._kept.owned(owner) if wanted in {"", one.sandbox})

    async def get_snapshot(self, owner: str, ref: str) -> Snapshot:
        return await self._kept.find(owner, ref)

    async def rename_snapshot(self, owner: str, ref: str, name: str) -> Snapshot:
        check_name(name)
        return await self._kept.rename(await self._kept.find(owner, ref), name)

    async def delete_snapshot(self, owner: str, ref: str) -> None:
        doomed = await self._kept.find(owner, ref)
        children = [one.name for one in await self._kept.owned(owner) if one.parent == doomed.id]
        if children:
            raise Conflict(f"Snapshot {doomed.name} has children: {', '.join(children)}", hint="Delete them first")
        await self._kept.remove(doomed)

    async def restore(self, owner: str, ref: str, snapshot: str) -> Sandbox:
        old, target = await self.get(owner, ref), await self._kept.find(owner, snapshot)
        return self._changed(old, replace(old, state=State.RUNNING, base=target.id, machine=new_id()))

    async def fork(
        self, owner: str, ref: str, count: int = 1, *, created_by: str = "", on_progress: object = None
    ) -> tuple[Fork, ...]:
        """Children on a host that has room for three."""
        check_count(count)
        parent = await self.get(owner, ref)
        if parent.state is not State.RUNNING:
            raise Conflict(f"Sandbox {parent.id} is {parent.state}", hint="Fork one that runs")
        names = child_names(parent.name, {sandbox.name for sandbox in self._sandboxes}, count)
        room = max(0, 4 - len(self._sandboxes))
        made = [replace(parent, id=new_id(), name=name, created_by=created_by) for name in names[:room]]
        self._sandboxes[:0] = reversed(made)
        full = HostExhausted("The host has no room", hint="Delete one")
        return (*(Fork(sandbox=one) for one in made), *(Fork(error=full) for _ in names[room:]))

    async def delete(self, owner: str, ref: str) -> None:
        self._sandboxes.remove(await self.get(owner, ref))

    async def usage(self, owner: str) -> Usage:
        return Usage.of(sandbox for sandbox in self._sandboxes if sandbox.owner == owner)

    async def survey(self) -> dict[State, Usage]:
        return {State.RUNNING: Usage.of(self._sandboxes)}

    async def health(self, image: str) -> dict[str, str]:
        return {"store": "", "hypervisor": "", "image": ""}

    @asynccontextmanager
    async def reach(self, owner: str, ref: str, *, wake: bool = True) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        sandbox = await (self.wake if wake else self.get)(owner, ref)
        if sandbox.state is not State.RUNNING:
            raise Conflict(f"Sandbox {sandbox.id} is {sandbox.state}", hint="Wake it first")
        yield sandbox, self._link

    def _changed(self, old: Sandbox, new: Sandbox) -> Sandbox:
        self._sandboxes[self._sandboxes.index(old)] = new
        return new

    def _awake(self, old: Sandbox) -> Sandbox:
        return old if old.state is State.RUNNING else lease.awake(old.moved(State.RUNNING, now_ms=0), 0)


@asynccontextmanager
async def one_host(directory: Path) -> AsyncGenerator[OneHost]:
    """Run the agent for the length of a block."""
    secret = os.urandom(32)
    port_file = directory / "port"
    agent = Path(vmm.agent.__file__).parent
    options = ["--listen", "127.0.0.1:0", "--port-file", str(port_file), "--secret-hex-env", "AGENT_SECRET"]
    users = ["--users-file", str(users_at(directory))]
    process = await anyio.open_process(
        [sys.executable, "-I", "-S", "-B", "-u", str(agent), *options, *users, "--no-identity-privileges"],
        env={**os.environ, "AGENT_SECRET": secret.hex(), "HOME": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
    )
    try:
        with anyio.fail_after(10):
            while not port_file.exists():
                await anyio.sleep(0.01)
        port = int(port_file.read_text())

        async def dial() -> Any:
            return await anyio.connect_tcp("127.0.0.1", port)

        link = GuestLink(dial, secret)
        snapshots = Snapshots(directory / "snapshots")
        await snapshots.sweep()
        try:
            yield OneHost(link, snapshots)
        finally:
            await link.aclose()
    finally:
        process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()
