"""Processes that wait for their reader, who never comes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Generator

import pytest

from tests.waiting import PATIENCE_S
from vmm.agent.hold import Hold
from vmm.agent.memory_kills import MemoryKills
from vmm.agent.output import OutputLog
from vmm.agent.process import Process, Streams
from vmm.agent.spawn import Child
from vmm.agent.trees import Trees

WRITES = "import sys; sys.stdout.write('x' * 1000000)"


@pytest.fixture
def proc() -> Generator[int]:
    made = os.open("/proc", os.O_RDONLY)
    yield made
    os.close(made)


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_streams_wait_until_half_of_the_ring_is_free() -> None:
    out, err = OutputLog(head=0, tail=100), OutputLog(head=0, tail=100)
    hold = Hold(out, err)
    out.append(b"x" * 40)
    assert not hold.stops(7, out)
    out.append(b"x" * 20)
    assert hold.stops(7, out)
    assert not hold.stops(8, err)
    assert out.room == 40
    hold.advance(5, 0)
    assert readable(hold.wake)
    assert hold.freed() == []
    hold.advance(20, 0)
    assert hold.freed() == [7]
    assert not hold.holds
    hold.close()


def test_without_its_reader_a_process_waits_no_longer() -> None:
    out, err = OutputLog(head=0, tail=100), OutputLog(head=0, tail=100)
    hold = Hold(out, err)
    out.append(b"x" * 100)
    assert hold.stops(7, out)
    hold.end()
    assert readable(hold.wake)
    assert hold.freed() == [7]
    hold.advance(50, 0)
    assert not out.crowded
    hold.close()


def test_a_process_whose_reader_never_comes_goes_on(monkeypatch: pytest.MonkeyPatch, proc: int) -> None:
    monkeypatch.setattr("vmm.agent.hold._PATIENCE_S", 0.0)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with subprocess.Popen([sys.executable, "-c", WRITES], stdout=writer) as started:
        os.close(writer)
        process = Process(
            child=Child(pid=started.pid, own_pid=started.pid, pidfd=os.pidfd_open(started.pid)),
            label="",
            tree=Trees(proc, None).new(),
            streams=Streams(stdout=reader),
            stdout=OutputLog(head=0, tail=100_000),
            stderr=OutputLog(head=0, tail=0),
            timeout=0,
            memory_kills=MemoryKills(-1),
            hold=True,
        )
        process.pump(until=time.monotonic() + PATIENCE_S, settle=False)
        assert process.drained
        assert process.stdout.total == 1_000_000
        started.returncode = 0  # The pump has reaped it.
