from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.hypervisor.process import ProcessRef, orphans
from vmm.hypervisor.spawn import spawn

pytestmark = pytest.mark.anyio


def sleeper(directory: Path) -> ProcessRef:
    return spawn(["sleep", "60"], directory=directory, log=directory / "log")


async def test_a_started_process_is_identified_by_pid_and_start_time(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    assert process.alive()
    assert not ProcessRef(process.pid, process.started + 1).alive()
    await process.kill()
    assert not process.alive()


async def test_killing_twice_is_not_an_error(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    await process.kill()
    await process.kill()


async def test_the_end_is_noticed_with_its_signal(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_kill_soon, process.pid)
        with anyio.fail_after(PATIENCE_S):
            assert await process.ended() == -9


async def _kill_soon(pid: int) -> None:
    await anyio.wait_all_tasks_blocked()
    os.kill(pid, 9)


async def test_the_exit_status_is_returned(tmp_path: Path) -> None:
    process = spawn(["sh", "-c", "exit 3"], directory=tmp_path, log=tmp_path / "log")
    with anyio.fail_after(PATIENCE_S):
        assert await process.ended() == 3


async def test_orphaned_processes_are_found_by_their_working_directory(tmp_path: Path) -> None:
    place = tmp_path / "machine"
    place.mkdir()
    process = sleeper(place)
    try:
        with anyio.fail_after(PATIENCE_S):
            while orphans(tmp_path) != {place: [process]}:
                await anyio.sleep(0.01)
        assert orphans(place) == {}
    finally:
        await process.kill()
    assert orphans(tmp_path) == {}
