"""The agent's end."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vmm.guest.agents import agent
from tests.waiting import PATIENCE_S

_SYS_TGKILL = 234  # of x86_64


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("main", [True, False])
def test_a_signal_ends_the_agent_whichever_thread_gets_it(tmp_path: Path, main: bool) -> None:
    with agent(tmp_path) as running:
        pid = running.process.pid
        tasks = Path(f"/proc/{pid}/task")
        eventually(lambda: len(list(tasks.iterdir())) > 1)
        others = {int(task.name) for task in tasks.iterdir()} - {pid}
        chosen = pid if main else min(others)
        assert ctypes.CDLL(None).syscall(_SYS_TGKILL, pid, chosen, signal.SIGTERM) == 0
        eventually(lambda: "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())
