from __future__ import annotations

import gc
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import Unavailable
from vmm.images.commands import run

pytestmark = pytest.mark.anyio

_TREE = "(sleep 600 & echo $! > pids; echo started; wait) & wait"


async def test_output_is_returned_and_each_line_is_reported() -> None:
    lines: list[str] = []
    text = await run(["sh", "-c", "echo one; echo two >&2; printf three"], deadline_s=20, on_line=lines.append)
    assert text == "one\nthree"
    assert sorted(lines) == ["one", "three", "two"]


async def test_an_error_message_ends_with_the_programs_output() -> None:
    with pytest.raises(Unavailable, match=r"sh failed with status 3\nno such mirror"):
        await run(["sh", "-c", "echo no such mirror >&2; exit 3"], deadline_s=20)


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(Unavailable, match="no-such-program could not be started"):
        await run(["no-such-program"], deadline_s=20)


async def test_a_deadline_kills_the_whole_process_tree(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="did not finish within 0 s"):
        await run(["sh", "-c", _TREE], deadline_s=0.5, cwd=tmp_path)
    await _assert_ended(tmp_path)


async def test_a_cancelled_run_kills_the_whole_process_tree(tmp_path: Path) -> None:
    started = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            await run(["sh", "-c", _TREE], deadline_s=60, cwd=tmp_path, on_line=lambda _: started.set())

        tasks.start_soon(work)
        await started.wait()
        tasks.cancel_scope.cancel()
    await _assert_ended(tmp_path)


@pytest.mark.parametrize("steps", range(1, 12))
async def test_a_run_that_is_cancelled_during_its_start_leaves_no_pipe_open(steps: int) -> None:
    before = _pipes()
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            await run(["sleep", "600"], deadline_s=60)

        tasks.start_soon(work)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    gc.collect()
    assert _pipes() <= before


async def test_a_program_does_not_inherit_python_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LC_MESSAGES", "de_DE.UTF-8")
    text = await run(["env"], deadline_s=20)
    assert "PYTHONPATH" not in text
    assert "LC_MESSAGES" not in text
    assert "LC_ALL=C.UTF-8" in text


def _pipes() -> set[Path]:
    return {descriptor for descriptor in Path("/proc/self/fd").iterdir() if _is_pipe(descriptor)}


def _is_pipe(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("pipe:")
    except FileNotFoundError:
        return False


async def _assert_ended(directory: Path) -> None:
    pid = (directory / "pids").read_text().strip()
    with anyio.fail_after(PATIENCE_S):
        while _alive(pid):
            await anyio.sleep(0.01)


def _alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
