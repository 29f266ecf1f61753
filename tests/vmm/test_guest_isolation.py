"""What root in a sandbox can do to the machine that it is in: use it up, but not cut it off from its host."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from tests.conftest import Opener
from vmm.errors import LinkError
from vmm.fleet import Fleet
from vmm.guest.values import Command, Outcome
from vmm.hypervisor.process import orphans
from vmm.sandboxes.spec import SandboxSpec

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

ALICE = "a" * 24
WAIT_MS = 120_000
REBOOT = "exec perl -e 'syscall 169, 0xfee1dead, 672274793, 0x01234567, 0'"
GREEDY = "exec perl -e 'while (1) { push @kept, q(x) x (4 << 20) }'"
BOMB = "burst() { while :; do burst & done; }; burst"


@pytest.fixture
async def box(open_fleet: Opener, data: Path) -> AsyncGenerator[Fleet]:
    """A fleet with one sandbox, `box`."""
    async with open_fleet() as fleet:
        await fleet.sandboxes.create(ALICE, SandboxSpec(name="box", image="minimal", mem=256))
        yield fleet
        await fleet.sandboxes.delete(ALICE, "box")
    assert orphans(data / "instances") == {}


async def sh(fleet: Fleet, line: str, *, user: str = "", timeout_ms: int = 0) -> Outcome:
    return await fleet.guest.exec(ALICE, "box", Command(shell=line, user=user, timeout_ms=timeout_ms), wait_ms=WAIT_MS)


async def said(fleet: Fleet, line: str, *, user: str = "") -> str:
    outcome = await sh(fleet, line, user=user)
    assert outcome.exit_code == 0, outcome.stderr.data()
    return outcome.stdout.data().decode().strip()


async def test_a_sandbox_sees_its_own_processes_devices_and_cgroups(box: Fleet) -> None:
    running = await box.guest.start(ALICE, "box", Command(argv=("sleep", "1000")))
    assert await said(box, f"cat /proc/{running.pid}/comm; cat /proc/1/comm") == "sleep\ninit"
    assert set((await said(box, "cat /proc/[0-9]*/comm")).split()) == {"init", "sleep", "cat"}
    assert (await said(box, "ls /sys/class/net")).split() == ["eth0", "lo"]
    assert await said(box, "cat /proc/self/cgroup") != "0::/"
    assert (await said(box, "cat /sys/fs/cgroup/cgroup.subtree_control")).split() == ["cpu", "memory", "pids"]
    memory = int(await said(box, "cat /sys/fs/cgroup/memory.max"))
    assert memory < (await box.guest.metrics(ALICE, "box")).memory_total
    # What the agent reads for a model or a client is what the sandbox's programs see, though it is none of them.
    assert b"overlay / overlay" in (await box.guest.read_file(ALICE, "box", "/proc/mounts")).data
    assert (await box.guest.read_file(ALICE, "box", "/proc/self/comm")).data == b"init\n"
    await box.guest.signal(ALICE, "box", running.pid, 9)


async def test_root_cannot_end_or_cut_off_the_agent(box: Fleet) -> None:
    await sh(box, "kill -9 -1; kill -9 1; ip link set eth0 down; ip link set lo down; umount -l /proc /sys /dev; true")
    assert await said(box, "echo answers") == "answers"
    refused = await sh(
        box,
        "mount -t proc proc /proc; mount -t sysfs s /sys; mount -t cgroup2 c /sys/fs/cgroup; "
        "echo 1 > /sys/fs/cgroup/cgroup.freeze; echo max > /sys/fs/cgroup/memory.max",
    )
    assert refused.stderr.data().count(b"Operation not permitted") == 2
    assert await said(box, "ls -d /sys/fs/cgroup/agent /sys/fs/cgroup/../agent 2>/dev/null; echo none") == "none"
    assert await said(box, "echo answers") == "answers"


async def test_a_reboot_from_inside_restarts_the_sandbox_with_its_files(box: Fleet) -> None:
    running = await box.guest.start(ALICE, "box", Command(shell="echo kept > /root/file; sync; sleep 1000"))
    await said(box, "until [ -s /root/file ]; do sleep 0.1; done")
    with suppress(LinkError):  # Unless its own end is told before the agent's.
        await sh(box, REBOOT)
    await _until_anew(box, running.pid)
    assert await said(box, "cat /root/file; cat /proc/1/comm") == "kept\ninit"


async def test_a_fork_bomb_ends_at_its_time_limit_and_other_commands_run_meanwhile(box: Fleet) -> None:
    outcomes: list[Outcome] = []
    most = 0

    async def bomb() -> None:
        outcomes.append(await sh(box, BOMB, timeout_ms=10_000))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bomb)
        while not outcomes:
            # However many it has, the limit of its own group is the end of it.
            counts = await said(box, "cat /sys/fs/cgroup/*/pids.current | sort -n | tail -1")
            most = max(most, int(counts))
    assert outcomes[0].timed_out
    assert most > 10, "the bomb never went off"
    # All of it was killed at once; on a busy host, to die and to be reaped takes a moment.
    await said(box, "until [ $(ls -d /proc/[0-9]* | wc -l) -lt 20 ]; do sleep 0.1; done")


async def test_a_command_that_uses_all_memory_is_killed_alone_and_named(box: Fleet) -> None:
    beside = await box.guest.start(ALICE, "box", Command(argv=("sleep", "1000")))
    greedy = await sh(box, GREEDY)
    assert greedy.exit_code == 137
    name, size, unit = greedy.memory_kill.split()
    assert (name, unit) == ("perl", "MiB)")
    assert int(size.lstrip("(")) > 100
    assert (await sh(box, "exit 137")).memory_kill == ""
    assert await said(box, f"cat /proc/{beside.pid}/comm") == "sleep"


async def test_a_real_time_loop_by_root_does_not_block_the_agent(box: Fleet) -> None:
    loop = await sh(box, "for n in 1 2; do chrt -f 99 sh -c 'while :; do :; done' & done; wait", timeout_ms=8_000)
    assert loop.timed_out
    assert await said(box, "echo answers") == "answers"


async def test_programs_find_the_usual_features_of_a_server(box: Fleet) -> None:
    nested = "unshare --user --map-root-user --mount --pid --fork --mount-proc --net sh -c"
    inside = "cat /proc/1/comm && id -u"
    assert await said(box, f"{nested} '{inside}'", user="nobody") == "sh\n0"
    assert await said(box, "exec 3<> /dev/fuse 4<> /dev/net/tun && echo opened", user="nobody") == "opened"
    assert int(await said(box, "cat /proc/sys/fs/inotify/max_user_watches")) >= 500_000
    assert await said(box, "[ -b /dev/loop0 ] && [ -c /dev/loop-control ] && echo there") == "there"
    assert (
        await said(
            box, "mkdir /sys/fs/cgroup/mine && echo $$ > /sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup"
        )
        == "0::/mine"
    )


async def _until_anew(fleet: Fleet, pid: int) -> None:
    """Wait until the agent is another one, which knows nothing of the process."""
    with anyio.fail_after(300):
        while True:
            with suppress(LinkError):
                if pid not in [info.pid for info in await fleet.guest.processes(ALICE, "box")]:
                    return
            await anyio.sleep(0.2)
