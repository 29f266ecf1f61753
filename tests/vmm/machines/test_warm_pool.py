"""Machines that wait for somebody to ask, on real ones."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from storage.ids import new_id
from tests.waiting import PATIENCE_S
from vmm.errors import HostExhausted, Unavailable
from vmm.guest.values import Command
from vmm.hypervisor.base import Hypervisor
from vmm.hypervisor.detect import Choice
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue, ImageSet
from vmm.machines.checkpoint import Checkpoint
from vmm.machines.machine import Machine, remove
from vmm.machines.templates import Templates
from vmm.machines.warm_pool import Key, WarmPool

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

MAX_AGE_S = 600.0


@dataclass(slots=True)
class Host:
    """Makes and ends the pool's machines, and fails when told to.

    Attributes:
        now: What the pool's clock says.
        full: Whether the host carries no more machines.
        broken: Whether machines cannot be made.
        stuck: Whether machines cannot be ended.
        gate: MachineRegistry are not finished before it is set.
        made, ended: The directories of machines, in order.
        tries: How often a machine was to be made.
    """

    driver: Hypervisor
    checkpoint: Checkpoint
    root: Path
    tasks: TaskGroup
    now: float = 1000.0
    full: bool = False
    broken: bool = False
    stuck: bool = False
    gate: anyio.Event | None = None
    made: list[str] = field(default_factory=list[str])
    ended: list[str] = field(default_factory=list[str])
    tries: int = 0

    def pool(self, size: int) -> WarmPool:
        return WarmPool(
            self.make,
            self.discard,
            self.admit,
            size=size,
            max_age_s=MAX_AGE_S,
            clock=lambda: self.now,
            tasks=self.tasks,
        )

    def admit(self, key: Key) -> None:
        self.tries += 1
        if self.full:
            raise HostExhausted(f"no space for {key.mem} MiB")

    async def make(self, key: Key) -> Machine:
        if self.broken:
            raise Unavailable("the image is away")
        machine = await Machine.clone(self.driver, self.checkpoint, self.root / new_id(), hostname="waiting")
        try:
            if self.gate is not None:
                await self.gate.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.discard(machine)
            raise
        assert machine.hardware.mem == key.mem
        self.made.append(machine.directory.name)
        return machine

    async def discard(self, machine: Machine) -> None:
        if self.stuck:
            raise TimeoutError("the kernel does not end it")
        await machine.stop()
        await remove(machine.directory)
        self.ended.append(machine.directory.name)


@pytest.fixture
def key(image_set: ImageSet) -> Key:
    return Key(images=image_set, cpu=1, mem=256)


@pytest.fixture
async def host(choice: Choice, catalogue: Catalogue, data: Path, key: Key, tmp_path: Path) -> AsyncGenerator[Host]:
    """A place for machines; a test must leave none."""

    async def report(step: str) -> None:
        assert step

    async with anyio.create_task_group() as tasks:
        templates = Templates(choice.driver, data / "templates", tasks, catalogue.verify)
        await templates.sweep()
        checkpoint = await templates.get(key.images, cpu=key.cpu, mem=key.mem, report=report)
        yield Host(driver=choice.driver, checkpoint=checkpoint, root=tmp_path, tasks=tasks)
        tasks.cancel_scope.cancel()
    left = orphans(tmp_path)
    for processes in left.values():
        for process in processes:
            await process.kill()
    assert left == {}
    assert list(tmp_path.iterdir()) == []


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not holds():
            await anyio.sleep(0.01)


async def settled() -> None:
    """Let the pool do in the background what it can do at the moment."""
    await anyio.wait_all_tasks_blocked()


async def hostname(machine: Machine) -> str:
    outcome = await machine.link.exec(Command(shell="hostname"), wait_ms=30_000)
    return outcome.stdout.data().decode().strip()


def kill(machine: str, host: Host) -> None:
    (process,) = orphans(host.root)[host.root / machine]
    os.kill(process.pid, signal.SIGKILL)


async def test_a_taken_machine_runs_belongs_to_its_taker_and_is_replaced(host: Host, key: Key) -> None:
    pool = host.pool(2)
    assert await pool.take(key) is None
    pool.keep(key)
    assert await pool.take(key) is None, "a machine was handed out before there could be one"
    await until(lambda: len(pool) == 2)
    assert pool.promised() == 2 * key.mem

    machine = await pool.take(key)
    assert machine is not None
    assert machine.directory.name == host.made[0], "not the one that has waited longest"
    await machine.assign_identity("mine")
    assert await hostname(machine) == "mine"

    await until(lambda: len(pool) == 2)
    assert len(host.made) == 3
    await pool.aclose()
    assert sorted(host.ended) == sorted(host.made[1:])
    assert await hostname(machine) == "mine", "what was taken is the taker's"
    await host.discard(machine)


async def test_a_request_is_answered_at_once_while_a_machine_is_being_made(host: Host, key: Key) -> None:
    host.gate = anyio.Event()
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: orphans(host.root) != {})
    assert pool.promised() == key.mem, "a machine that is being made takes memory already"
    assert await pool.take(key) is None
    host.gate.set()
    await until(lambda: len(pool) == 1)
    await pool.aclose()


async def test_two_concurrent_requests_get_two_machines(host: Host, key: Key) -> None:
    pool = host.pool(2)
    pool.keep(key)
    await until(lambda: len(pool) == 2)
    host.full = True
    taken: list[Machine | None] = []

    async def take() -> None:
        taken.append(await pool.take(key))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(take)
    machines = [machine for machine in taken if machine is not None]
    assert sorted(machine.directory.name for machine in machines) == sorted(host.made)
    assert taken.count(None) == 1
    assert pool.promised() == 0
    for machine in machines:
        await host.discard(machine)
    await pool.aclose()


async def test_a_machine_that_died_is_never_handed_out(host: Host, key: Key) -> None:
    pool = host.pool(2)
    pool.keep(key)
    await until(lambda: len(pool) == 2)
    dead, alive = host.made
    kill(dead, host)
    await until(lambda: host.root / dead not in orphans(host.root))
    machine = await pool.take(key)
    assert machine is not None
    assert machine.directory.name == alive
    await until(lambda: len(pool) == 2)
    assert dead in host.ended
    await host.discard(machine)
    await pool.aclose()


async def test_a_machine_that_does_not_answer_is_never_handed_out(host: Host, key: Key) -> None:
    pool = host.pool(2)
    pool.keep(key)
    await until(lambda: len(pool) == 2)
    mute, answers = host.made
    (process,) = orphans(host.root)[host.root / mute]
    os.kill(process.pid, signal.SIGSTOP)
    machine = await pool.take(key)
    assert machine is not None
    assert machine.directory.name == answers
    await until(lambda: mute in host.ended)
    await host.discard(machine)
    await pool.aclose()


async def test_a_dead_machine_is_replaced_without_a_request(host: Host, key: Key) -> None:
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: len(pool) == 1)
    kill(host.made[0], host)

    def replaced() -> bool:
        pool.tend()  # again and again, as the fleet does: a process that is ending may still look alive
        return len(host.made) == 2 and len(pool) == 1

    await until(replaced)
    assert host.ended == host.made[:1]
    await pool.aclose()


async def test_a_machine_that_waited_too_long_is_replaced_and_not_handed_out(host: Host, key: Key) -> None:
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: len(pool) == 1)
    host.now += MAX_AGE_S - 1
    pool.tend()
    await settled()
    assert host.ended == []
    host.now += 1
    assert await pool.take(key) is None
    await until(lambda: len(host.made) == 2 and len(pool) == 1)
    assert host.ended == host.made[:1]
    await pool.aclose()


async def test_machines_of_a_key_that_is_no_longer_kept_are_ended(host: Host, key: Key) -> None:
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: len(pool) == 1)
    rebuilt = replace(key, images=replace(key.images, digest="0" * 64))
    assert await pool.take(rebuilt) is None, "a machine of an older build was handed out"
    pool.keep(rebuilt)
    assert await pool.take(key) is None
    await until(lambda: len(host.made) == 2 and len(pool) == 1)
    assert host.ended == host.made[:1]
    await pool.aclose()


async def test_a_full_host_gets_no_machine_until_it_has_free_resources(
    host: Host, key: Key, capsys: pytest.CaptureFixture[str]
) -> None:
    host.full = True
    pool = host.pool(1)
    pool.keep(key)
    for _ in range(3):
        pool.tend()
        await settled()
    assert host.tries == 1, "it must pause before it asks again"
    assert pool.promised() == 0
    host.now += 5
    pool.tend()
    await settled()
    host.now += 5
    pool.tend()
    await settled()
    assert host.tries == 2, "the second pause is longer than the first"
    host.full = False
    host.now += 5
    pool.tend()
    await until(lambda: len(pool) == 1)
    assert capsys.readouterr().out.count("no machine made ahead") == 1
    await pool.aclose()


async def test_a_failure_to_make_one_kind_does_not_stop_the_other(host: Host, key: Key) -> None:
    host.broken = True
    pool = host.pool(1)
    pool.keep(key)
    await settled()
    assert host.tries == 1
    host.broken = False
    other = replace(key, images=replace(key.images, name="other"))
    pool.keep(key, other)
    await until(lambda: len(pool) == 1)
    assert host.tries == 2
    machine = await pool.take(other)
    assert machine is not None
    await host.discard(machine)
    await pool.aclose()


async def test_the_pool_frees_memory_for_sandboxes_and_does_not_take_it_back(host: Host, key: Key) -> None:
    pool = host.pool(1)
    assert not await pool.give_way()
    host.now += 300
    pool.keep(key)
    await until(lambda: len(pool) == 1)
    assert await pool.give_way()
    assert pool.promised() == 0
    assert host.ended == host.made
    pool.tend()
    await settled()
    assert host.tries == 1
    host.now += 300
    pool.tend()
    await until(lambda: len(pool) == 1)
    await pool.aclose()


async def test_the_pool_gives_up_a_machine_that_is_being_made(host: Host, key: Key) -> None:
    host.gate = anyio.Event()
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: orphans(host.root) != {})
    assert await pool.give_way()
    assert pool.promised() == 0
    assert orphans(host.root) == {}
    assert not await pool.give_way()
    await pool.aclose()


async def test_a_machine_that_does_not_end_is_ended_later(host: Host, key: Key) -> None:
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: len(pool) == 1)
    host.stuck = True
    assert not await pool.give_way()
    assert pool.promised() == key.mem, "its memory is not free yet"
    assert await pool.take(key) is None
    host.stuck = False
    pool.tend()
    await until(lambda: host.ended == host.made)
    assert pool.promised() == 0
    await pool.aclose()


async def test_closing_cancels_machines_that_are_being_made(host: Host, key: Key) -> None:
    host.gate = anyio.Event()
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: orphans(host.root) != {})
    await pool.aclose()
    assert orphans(host.root) == {}
    pool.keep(key)
    await settled()
    assert host.tries == 1, "a closed pool makes nothing"
    assert await pool.take(key) is None


async def test_cancelling_the_servers_tasks_leaves_nothing_behind(host: Host, key: Key) -> None:
    tasks = anyio.create_task_group()
    host.tasks = tasks
    pool = host.pool(2)
    async with tasks:
        pool.keep(key)
        await until(lambda: len(pool) == 1 and pool.promised() == 2 * key.mem)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await pool.aclose()
    assert orphans(host.root) == {}
    assert await pool.take(key) is None, "it asks tasks that have ended for more"


async def test_a_request_that_is_cancelled_while_taking_leaves_nothing_behind(host: Host, key: Key) -> None:
    pool = host.pool(1)
    pool.keep(key)
    await until(lambda: len(pool) == 1)
    (process,) = orphans(host.root)[host.root / host.made[0]]
    os.kill(process.pid, signal.SIGSTOP)
    with anyio.move_on_after(0.05) as scope:
        await pool.take(key)
    assert scope.cancelled_caught
    await until(lambda: host.ended == host.made[:1] and len(pool) == 1)
    await pool.aclose()
