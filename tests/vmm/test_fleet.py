"""Sandboxes as their owners know them, on real machines."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S, until
from vmm.errors import Conflict, HostExhausted, InvalidInput, LimitExceeded, NotFound, SandboxLost, Unavailable
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE, BOB = "a" * 24, "b" * 24
SPEC = SandboxSpec(name="box", image="minimal", mem=512)
Opener = Callable[..., AbstractAsyncContextManager[Fleet]]


async def run(fleet: Fleet, ref: str, line: str) -> str:
    outcome = await fleet.guest.exec(ALICE, ref, Command(shell=line), wait_ms=30_000)
    assert outcome.exit_code == 0, outcome
    return outcome.stdout.data().decode()


def hypervisor_of(data: Path, sandbox: Sandbox) -> int:
    (process,) = orphans(data / "instances")[data / "instances" / sandbox.id]
    return process.pid


async def until_killed(fleet: Fleet, sandbox: Sandbox) -> Sandbox:
    with anyio.fail_after(PATIENCE_S):
        while (found := await fleet.sandboxes.get(ALICE, sandbox.id)).state is not State.KILLED:
            await anyio.sleep(0.02)
    return found


async def test_each_sandbox_is_a_separate_machine(fleet: Fleet) -> None:
    asked = "cat /proc/sys/kernel/random/uuid /etc/machine-id; hostname"
    first = await fleet.sandboxes.create(ALICE, SandboxSpec(name="one", image="minimal", mem=512))
    second = await fleet.sandboxes.create(ALICE, SandboxSpec(name="two", image="minimal", mem=512))
    one, two = await run(fleet, first.id, asked), await run(fleet, second.id, asked)
    assert one.splitlines()[2] == "one"
    assert two.splitlines()[2] == "two"
    assert not set(one.splitlines()) & set(two.splitlines())
    await run(fleet, "one", "echo mine > /root/file")
    assert await run(fleet, "two", "ls /root") == ""


async def test_a_new_sandbox_has_the_right_time(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    before = time.time()
    assert before - 2 <= int(await run(fleet, "box", "date +%s")) <= time.time() + 2


async def test_a_guest_does_not_reach_the_hosts_loopback(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.setblocking(False)
        for address in ("10.0.2.2", "10.0.2.3", "10.0.2.100"):
            # The guest's own system accepts; then the server refuses, and the connection is reset.
            knock = Command(shell=f"exec 3<>/dev/tcp/{address}/{port}; echo >&3; head -c 1 <&3")
            outcome = await fleet.guest.exec(ALICE, "box", knock, wait_ms=60_000)
            assert outcome.stdout.data() == b""
            assert f"refused {address}:{port}" in outcome.network
            with pytest.raises(BlockingIOError):
                listener.accept()


async def test_a_deleted_sandbox_leaves_nothing_behind(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.sandboxes.delete(ALICE, "box")
    assert orphans(data / "instances") == {}
    assert list((data / "instances").iterdir()) == []
    assert (await fleet.sandboxes.list(ALICE)).total == 0
    with pytest.raises(NotFound):
        await fleet.sandboxes.get(ALICE, sandbox.id)


async def test_deleting_needs_no_guest(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    os.kill(hypervisor_of(data, sandbox), signal.SIGSTOP)
    with anyio.fail_after(PATIENCE_S):
        await fleet.sandboxes.delete(ALICE, sandbox.id)
    assert orphans(data / "instances") == {}


async def test_another_users_sandbox_looks_like_a_missing_one(fleet: Fleet) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    for ref in (sandbox.id, "box"):
        with pytest.raises(NotFound) as foreign:
            await fleet.sandboxes.get(BOB, ref)
        with pytest.raises(NotFound) as missing:
            await fleet.sandboxes.get("c" * 24, ref)
        assert str(foreign.value) == str(missing.value)
        with pytest.raises(NotFound):
            await fleet.guest.exec(BOB, ref, Command(shell="true"), wait_ms=1000)
        with pytest.raises(NotFound):
            await fleet.sandboxes.delete(BOB, ref)
    assert (await fleet.sandboxes.list(BOB)).total == 0
    assert (await fleet.sandboxes.get(ALICE, sandbox.id)).state is State.RUNNING


async def test_an_ambiguous_name_is_refused_with_the_ids(fleet: Fleet) -> None:
    first, second = await fleet.sandboxes.create(ALICE, SPEC), await fleet.sandboxes.create(ALICE, SPEC)
    with pytest.raises(Conflict) as refused:
        await fleet.sandboxes.get(ALICE, "box")
    assert first.id in str(refused.value)
    assert second.id in str(refused.value)


async def test_lists_are_newest_first_in_pages_and_by_labels(fleet: Fleet) -> None:
    for n in range(3):
        await fleet.sandboxes.create(
            ALICE, SandboxSpec(name=f"n{n}", image="minimal", mem=512, labels={"odd": str(n % 2)})
        )
    page = await fleet.sandboxes.list(ALICE, page=1, limit=2)
    assert ([sandbox.name for sandbox in page.items], page.total) == (["n2", "n1"], 3)
    assert [sandbox.name for sandbox in (await fleet.sandboxes.list(ALICE, page=2, limit=2)).items] == ["n0"]
    assert [sandbox.name for sandbox in (await fleet.sandboxes.list(ALICE, labels={"odd": "1"})).items] == ["n1"]


async def test_changeable_fields_can_be_updated(fleet: Fleet) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    changed = await fleet.sandboxes.update(ALICE, "box", name="den", labels={"a": "b"}, auto_sleep=False)
    assert (changed.id, changed.name, changed.labels, changed.auto_sleep) == (sandbox.id, "den", {"a": "b"}, False)
    with pytest.raises(InvalidInput):
        await fleet.sandboxes.update(ALICE, "den", name="No")
    assert await fleet.sandboxes.get(ALICE, "den") == changed


async def test_the_sandboxs_environment_reaches_commands_and_terminals(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SandboxSpec(name="box", image="minimal", mem=512, env={"A": "1", "B": "2"}))
    command = Command(shell="echo $A$B", env={"B": "3"})
    assert (await fleet.guest.exec(ALICE, "box", command, wait_ms=10_000)).stdout.data() == b"13\n"


async def test_exceeded_limits_are_named_and_a_refusal_leaves_nothing_behind(open_fleet: Opener, data: Path) -> None:
    async with open_fleet(limits=OwnerLimits(sandboxes=1)) as fleet:
        await fleet.sandboxes.create(ALICE, SPEC)
        with pytest.raises(LimitExceeded, match="sandboxes must be at most 1, got 1 existing"):
            await fleet.sandboxes.create(ALICE, SPEC)
        await fleet.sandboxes.create(BOB, SPEC)
        assert len(list((data / "instances").iterdir())) == 2
        await fleet.sandboxes.delete(ALICE, "box")
        await fleet.sandboxes.create(ALICE, SPEC)


async def test_a_host_without_free_memory_refuses_a_create(open_fleet: Opener, data: Path) -> None:
    async with open_fleet(reserve=HostReserve(memory=1024 * 1024)) as fleet:
        with pytest.raises(HostExhausted, match="MiB of memory available"):
            await fleet.sandboxes.create(ALICE, SPEC)
        assert (await fleet.sandboxes.list(ALICE)).total == 0
        assert list((data / "instances").iterdir()) == []


async def test_an_image_that_is_not_built_is_reported_with_the_command(open_fleet: Opener, tmp_path: Path) -> None:
    async with open_fleet(images=Catalogue(tmp_path / "empty")) as fleet:
        with pytest.raises(Unavailable, match="casemate image build code"):
            await fleet.sandboxes.create(ALICE, SandboxSpec(name="box", image="code"))
        assert "casemate image build" in (await fleet.health("code"))["image"]


@pytest.mark.kvm
async def test_a_killed_machine_is_reported_with_the_reason(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    os.kill(hypervisor_of(data, sandbox), signal.SIGKILL)
    found = await until_killed(fleet, sandbox)
    assert found.reason == "its virtual machine was ended by signal 9 on the host"
    with pytest.raises(SandboxLost, match="signal 9 on the host; its memory and running processes are lost"):
        await fleet.guest.exec(ALICE, "box", Command(shell="true"), wait_ms=1000)
    await fleet.sandboxes.delete(ALICE, "box")
    assert list((data / "instances").iterdir()) == []


async def test_a_machine_that_dies_during_a_command_is_reported(fleet: Fleet, data: Path) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_kill_under_a_command, fleet, hypervisor_of(data, sandbox))
        with pytest.raises(SandboxLost):
            await fleet.guest.exec(ALICE, "box", Command(shell="sleep 30"), wait_ms=30_000)


async def _kill_under_a_command(fleet: Fleet, pid: int) -> None:
    await until(lambda: fleet.guest.processes(ALICE, "box"))
    os.kill(pid, signal.SIGKILL)


async def test_a_guest_that_shuts_down_is_reported_with_the_reason(fleet: Fleet) -> None:
    sandbox = await fleet.sandboxes.create(ALICE, SPEC)
    await fleet.guest.start(ALICE, "box", Command(shell="echo o > /proc/sysrq-trigger"))
    assert "from inside" in (await until_killed(fleet, sandbox)).reason


async def test_a_cancelled_create_leaves_nothing_behind(fleet: Fleet, data: Path) -> None:
    for delay in (0.02, 0.1, 0.2, 0.35):
        with anyio.move_on_after(delay) as limit:
            await fleet.sandboxes.create(ALICE, SPEC)
        if not limit.cancelled_caught:
            await fleet.sandboxes.delete(ALICE, "box")
        assert orphans(data / "instances") == {}
        assert list((data / "instances").iterdir()) == []
        assert (await fleet.sandboxes.list(ALICE)).total == 0


async def test_several_sandboxes_can_be_created_at_once(fleet: Fleet) -> None:
    async with anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(fleet.sandboxes.create, ALICE, SandboxSpec(name=f"n{n}", image="minimal", mem=512))
    for n in range(4):
        assert await run(fleet, f"n{n}", "hostname") == f"n{n}\n"


async def test_a_full_guest_disk_affects_only_the_guest(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SPEC)
    outcome = await fleet.guest.exec(
        ALICE, "box", Command(shell="head -c 4096 /dev/zero > /root/small; fallocate -l 20G /root/big"), wait_ms=30_000
    )
    assert b"No space left" in outcome.stderr.data()
    await run(fleet, "box", "rm /root/big; test -s /root/small")


async def test_a_sandbox_gets_two_cpus_and_more_memory_on_request(fleet: Fleet) -> None:
    await fleet.sandboxes.create(ALICE, SandboxSpec(name="big", image="minimal", cpu=2, mem=1024))
    assert await run(fleet, "big", "nproc") == "2\n"
    assert (
        int(
            await run(
                fleet,
                "big",
                "awk '/MemTotal/ {print $2}' /proc/meminfo || sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo",
            )
        )
        > 900_000
    )


async def test_a_sandbox_is_created_from_a_machine_of_the_warm_pool(open_fleet: Opener, data: Path) -> None:
    async with open_fleet(ready=1) as fleet:
        await fleet.prepare("minimal", cpu=1, mem=512)
        machines = {await _another_waits(data, set())}
        for name in ("one", "two"):
            sandbox = await fleet.sandboxes.create(ALICE, SandboxSpec(name=name, image="minimal", mem=512))
            assert sandbox.machine in machines
            assert await run(fleet, name, "hostname") == f"{name}\n"
            machines.add(await _another_waits(data, machines))
        assert await run(fleet, "one", "cat /etc/machine-id") != await run(fleet, "two", "cat /etc/machine-id")
    async with open_fleet() as fleet:  # machines that wait end with their server, those of sandboxes do not
        assert len(list((data / "instances").iterdir())) == 2
        for name in ("one", "two"):
            assert await run(fleet, name, "hostname") == f"{name}\n"
            await fleet.sandboxes.delete(ALICE, name)
        assert list((data / "instances").iterdir()) == []


async def _another_waits(data: Path, known: set[str]) -> str:
    with anyio.fail_after(PATIENCE_S):
        while True:
            there = {path.parent.name for path in (data / "instances").glob("*/machine.json")}
            if new := there - known:
                return new.pop()
            await anyio.sleep(0.05)
