"""The machines' directory: only what a sandbox can have left there is swept away."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from storage.ids import new_id
from vmm.hypervisor.detect import Choice
from vmm.machines.registry import MachineRegistry

pytestmark = pytest.mark.anyio


async def test_directories_without_a_sandboxs_name_are_left_alone(tmp_path: Path, choice: Choice) -> None:
    unknown, kept = new_id(), new_id()
    for name in (unknown, kept, "photos", f"{unknown}.bak", unknown.upper()):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "notes.txt").touch()

    async def on_death(sandbox_id: str, machine: str, reason: str) -> None:
        raise AssertionError(f"{sandbox_id} {machine} {reason}")

    async with anyio.create_task_group() as tasks:
        machines = MachineRegistry(choice.driver, tmp_path, tasks, on_death)
        assert await machines.sweep(running=set(), kept={kept}) == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {kept, "photos", f"{unknown}.bak", unknown.upper(), "notes.txt"}
