"""A sandbox without a virtual machine: the real agent on this host, the real link, behind the fleet's interface.

What the tools make of a guest is tested on it in seconds; that the fleet brings guests about is tested elsewhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.abc import Process

import vmm.agent
from storage.ids import new_id
from storage.sqlite import SqliteDatabase
from tests.vmm.guest.agents import users_at
from tests.waiting import PATIENCE_S
from vmm.calls.guest import GuestCalls
from vmm.calls.ownership import Ownership
from vmm.calls.sandboxes import SandboxCalls
from vmm.errors import Conflict, HostExhausted
from vmm.guest.link import GuestLink
from vmm.guest.vitality import GRACE, Grace
from vmm.lifecycle.access import GuestAccess
from vmm.lifecycle.forks import Fork, check_count, child_names
from vmm.machines.snapshots import Snapshot, Snapshots
from vmm.sandboxes import lease
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec, check_labels, check_name
from vmm.sandboxes.store import SANDBOXES, SandboxStore

SANDBOX = "0123456789abcdef01234567"
NAME = "box"
ALICE = "a" * 24
IMAGES = ("code", "minimal")


class OneHost:
    """Alice has one sandbox, `box`: this host. Nobody else has any. Snapshots of it have names, and hold nothing."""

    def __init__(self, link: GuestLink, records: SandboxStore, snapshots: Snapshots, agent: Process) -> None:
        self._link = link
        self._agent = agent
        ownership = Ownership(records, silence=self._why_silent, on_sandbox=lambda _sandbox: None)
        self.sandboxes = _Sandboxes(ownership, records, snapshots)
        self.lifecycle = _Lifecycle(ownership, records)
        self.snapshots = _Snapshots(ownership, records, snapshots)
        self.guest = GuestCalls(ownership, cast("GuestAccess", _Access(link, self.lifecycle)))

    def images(self) -> tuple[str, ...]:
        return IMAGES

    async def health(self, image: str) -> dict[str, str]:
        return {"store": "", "hypervisor": "", "image": ""}

    @contextmanager
    def stopped(self) -> Generator[None]:
        """For the length of a block the guest does not answer, which calls have to find out."""
        self._agent.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._agent.send_signal(signal.SIGCONT)

    async def look(self) -> bool:
        """Whether the guest answers, asked as a call or the fleet's sweep would."""
        return await self._link.answers()

    def _why_silent(self, _sandbox: str) -> str:
        return "its guest has not answered for 5 s; restart it (restart_sandbox)" if self._link.silent_s else ""

    async def kill(self, owner: str, ref: str) -> None:
        """What a hypervisor that ends does to a record."""
        await self.lifecycle.change(
            owner, ref, lambda old: old.moved(State.KILLED, now_ms=0, reason="its virtual machine ended")
        )


class _Sandboxes(SandboxCalls):
    def __init__(self, ownership: Ownership, records: SandboxStore, kept: Snapshots) -> None:
        self._ownership = ownership
        self._records = records
        self._kept = kept
        self._clock = lambda: 0

    async def create(self, owner: str, spec: SandboxSpec, *, on_progress: object = None) -> Sandbox:
        """One more name for this host."""
        spec.check(IMAGES)
        lease.check_ttl(spec.ttl_s)
        lease.check_idle(spec.idle_s)
        base = (await self._kept.find(owner, spec.snapshot)).id if spec.snapshot else ""
        return await _made(self._records, replace(Sandbox.new(new_id(), owner, spec, now_ms=0), base=base))

    async def delete(self, owner: str, ref: str) -> None:
        await self._records.remove((await self.get(owner, ref)).id)


class _Lifecycle:
    def __init__(self, ownership: Ownership, records: SandboxStore) -> None:
        self._ownership = ownership
        self._records = records

    async def sleep(self, owner: str, ref: str) -> Sandbox:
        def asleep(old: Sandbox) -> Sandbox:
            return old if old.state is State.ASLEEP else lease.asleep(old.moved(State.ASLEEP, now_ms=1000), 1000)

        return await self.change(owner, ref, asleep)

    async def wake(self, owner: str, ref: str) -> Sandbox:
        def awake(old: Sandbox) -> Sandbox:
            if old.state is State.KILLED:
                raise Conflict(f"Sandbox {old.id} is killed", hint="Start it")
            return _awake(old)

        return await self.change(owner, ref, awake)

    async def revive(self, owner: str, ref: str) -> Sandbox:
        def revived(old: Sandbox) -> Sandbox:
            reason = "started from its disk; its memory is lost" if old.state is State.KILLED else ""
            return replace(_awake(old), reason=reason)

        return await self.change(owner, ref, revived)

    async def restart(self, owner: str, ref: str, *, from_snapshot: bool = False) -> Sandbox:
        """Ends nothing, and says what is lost all the same."""
        what = "newest snapshot" if from_snapshot else "disk"
        return await self.change(
            owner, ref, lambda old: replace(_awake(old), reason=f"restarted from its {what}: its memory is lost")
        )

    async def change(self, owner: str, ref: str, change: Callable[[Sandbox], Sandbox]) -> Sandbox:
        return await self._records.change((await self._ownership.get(owner, ref)).id, change)


class _Snapshots:
    def __init__(self, ownership: Ownership, records: SandboxStore, kept: Snapshots) -> None:
        self._ownership = ownership
        self._records = records
        self._kept = kept

    async def take(
        self, owner: str, ref: str, *, name: str = "", labels: Mapping[str, str] | None = None, created_by: str = ""
    ) -> Snapshot:
        if name:
            check_name(name)
        check_labels(labels or {})
        sandbox = await self._ownership.get(owner, ref)
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

    async def list(self, owner: str, *, sandbox: str = "") -> tuple[Snapshot, ...]:
        wanted = (await self._ownership.get(owner, sandbox)).id if sandbox else ""
        return tuple(one for one in await self._kept.owned(owner) if wanted in {"", one.sandbox})

    async def get(self, owner: str, ref: str) -> Snapshot:
        return await self._kept.find(owner, ref)

    async def rename(self, owner: str, ref: str, name: str) -> Snapshot:
        check_name(name)
        return await self._kept.rename(await self._kept.find(owner, ref), name)

    async def delete(self, owner: str, ref: str) -> None:
        doomed = await self._kept.find(owner, ref)
        children = [one.name for one in await self._kept.owned(owner) if one.parent == doomed.id]
        if children:
            raise Conflict(f"Snapshot {doomed.name} has children: {', '.join(children)}", hint="Delete them first")
        await self._kept.remove(doomed)

    async def restore(self, owner: str, ref: str, snapshot: str) -> Sandbox:
        target = await self._kept.find(owner, snapshot)
        sandbox = await self._ownership.get(owner, ref)
        return await self._records.change(
            sandbox.id, lambda old: replace(old, state=State.RUNNING, base=target.id, machine=new_id())
        )

    async def fork(
        self, owner: str, ref: str, count: int = 1, *, created_by: str = "", on_progress: object = None
    ) -> tuple[Fork, ...]:
        """Children on a host that has room for three."""
        check_count(count)
        parent = await self._ownership.get(owner, ref)
        if parent.state is not State.RUNNING:
            raise Conflict(f"Sandbox {parent.id} is {parent.state}", hint="Fork one that runs")
        taken = {sandbox.name for sandbox in await self._records.owned(owner)}
        names = child_names(parent.name, taken, count)
        room = max(0, 4 - len(taken))
        made = [
            await _made(
                self._records, replace(parent, id=new_id(), name=name, created_by=created_by, state=State.CREATING)
            )
            for name in names[:room]
        ]
        full = HostExhausted("The host has no room", hint="Delete one")
        return (*(Fork(sandbox=one) for one in made), *(Fork(error=full) for _ in names[room:]))


class _Access:
    """Every sandbox is reached by the one link."""

    def __init__(self, link: GuestLink, lifecycle: _Lifecycle) -> None:
        self._link = link
        self._lifecycle = lifecycle

    @asynccontextmanager
    async def use(self, sandbox: Sandbox) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        if sandbox.state is not State.RUNNING:
            sandbox = await self._lifecycle.wake(sandbox.owner, sandbox.id)
        async with self.look(sandbox) as pair:
            yield pair

    @asynccontextmanager
    async def look(self, sandbox: Sandbox) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        if sandbox.state is not State.RUNNING:
            raise Conflict(f"Sandbox {sandbox.id} is {sandbox.state}", hint="Wake it first")
        yield sandbox, self._link


async def _made(records: SandboxStore, sandbox: Sandbox) -> Sandbox:
    running = sandbox.moved(State.RUNNING, now_ms=0)
    await records.insert(running)
    return running


def _awake(old: Sandbox) -> Sandbox:
    return old if old.state is State.RUNNING else lease.awake(old.moved(State.RUNNING, now_ms=0), 0)


@asynccontextmanager
async def one_host(directory: Path, *, grace: Grace = GRACE) -> AsyncGenerator[OneHost]:
    """Run the agent for the length of a block.

    Args:
        directory: Where its files are.
        grace: How long calls wait for it.
    """
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
        with anyio.fail_after(PATIENCE_S):
            while not port_file.exists():
                await anyio.sleep(0.01)
        port = int(port_file.read_text())

        async def dial() -> Any:
            return await anyio.connect_tcp("127.0.0.1", port)

        link = GuestLink(dial, secret, grace=grace)
        snapshots = Snapshots(directory / "snapshots")
        await snapshots.sweep()
        try:
            async with SqliteDatabase(directory / "records.db") as database:
                records = SandboxStore(await database.collection(SANDBOXES), host="f" * 24)
                spec = SandboxSpec(name=NAME, env={"FROM_SANDBOX": "yes"})
                await records.insert(Sandbox.new(SANDBOX, ALICE, spec, now_ms=0).moved(State.RUNNING, now_ms=0))
                yield OneHost(link, records, snapshots, process)
        finally:
            await link.aclose()
    finally:
        process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()
