"""Commands of one agent, in sessions and without, that share the room on the disk for their output."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.guest.agents import users_at
from tests.waiting import PATIENCE_S
from vmm.agent import frames, spool
from vmm.agent.arguments import Arguments
from vmm.agent.channel import Channel
from vmm.agent.memory_kills import MemoryKills
from vmm.agent.processes import Processes
from vmm.agent.sessions import Sessions
from vmm.agent.spawn import Spawner
from vmm.agent.spool import Spools
from vmm.agent.trees import Trees
from vmm.agent.users import Users

MOST = 2_000_000
LONG = 1_500_000
"""More than memory keeps of an output, and less than a spool does."""


@pytest.fixture
def spools(tmp_path: Path) -> Generator[Spools]:
    directory = os.open(tmp_path, os.O_RDONLY)
    yield Spools(directory, most=MOST, total=2 * MOST)
    os.close(directory)


@pytest.fixture
def both(tmp_path: Path, spools: Spools) -> Generator[tuple[Processes, Sessions]]:
    proc, null = os.open("/proc", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    trees = Trees(proc, None)
    users = Users(os.fsencode(users_at(tmp_path)))
    spawner, memory_kills = Spawner(trees, proc, None), MemoryKills(-1)
    processes = Processes(trees, users, spawner, null, memory_kills, spools)
    sessions = Sessions(trees, users, spawner, null, memory_kills, spools)
    yield processes, sessions
    processes.close()
    sessions.close_all()
    os.close(proc)
    os.close(null)


@pytest.fixture
def processes(both: tuple[Processes, Sessions]) -> Processes:
    return both[0]


@pytest.fixture
def sessions(both: tuple[Processes, Sessions]) -> Sessions:
    """A session, `s`."""
    call(both[1].open, session_id="s")
    return both[1]


def call(handler: Any, **values: object) -> tuple[dict[str, Any], bytes]:
    """Have an operation answered over a connection; return the result and its data."""
    agent, host = socket.socketpair()
    with agent, host:
        host.settimeout(PATIENCE_S)
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024 * 1024)
        handler(Channel(agent), Arguments(values))
        peer, data = Channel(host), b""
        while (frame := peer.receive())[0] == frames.DATA:
            data += frame[1]
        assert frame[0] == frames.RESULT
        return frames.unpack_json(frame[1]), data


def ran(processes: Processes, size: int) -> int:
    """Run a command that prints so many bytes, and return its pid."""
    line = f"head -c {size} /dev/zero"
    value, _ = call(processes.run, shell=line, wait_ms=int(PATIENCE_S * 1000), keep_head=0, keep_tail=0)
    assert value["stdout"][2] == size
    return value["pid"]


def printed(sessions: Sessions, size: int) -> int:
    """Run a command in the session that prints so many bytes, and return its number."""
    number: int = call(sessions.start, session_id="s", command=f"head -c {size} /dev/zero")[0]["number"]
    given = {"session_id": "s", "number": number, "wait_ms": int(PATIENCE_S * 1000)}
    value, _ = call(sessions.wait, **given, keep_head=0, keep_tail=0)
    assert (value["running"], value["output"][2]) == (False, size)
    return number


def shown_from(sessions: Sessions, number: int, offset: int) -> int:
    """As `begins`, of the session's command."""
    value, data = call(sessions.read, session_id="s", number=number, offset=offset, max_bytes=1)
    assert data == b"\0"
    return value["output"][0]


def begins(processes: Processes, pid: int, offset: int) -> int:
    """Where a read at an offset begins: later if what is there was dropped."""
    value, data = call(processes.read_output, pid=pid, stdout_offset=offset, max_bytes=1)
    assert data == b"\0"
    return value["stdout"][0]


def test_old_outputs_make_room_for_new_ones(processes: Processes, spools: Spools) -> None:
    first, second, third = (ran(processes, LONG) for _ in range(3))
    assert [begins(processes, pid, 300_000) == 300_000 for pid in (first, second, third)] == [False, True, True]
    assert spools.used == 2 * LONG
    assert begins(processes, first, 0) == 0


def test_a_disk_that_is_nearly_full_gets_room_from_old_outputs(
    processes: Processes, spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = ran(processes, LONG)

    def full(_descriptor: int) -> bool:
        return False

    monkeypatch.setattr(spool, "has_room", full)
    last = ran(processes, LONG)
    assert spools.used == 0
    assert begins(processes, pid, 300_000) > 300_000
    assert begins(processes, last, 300_000) > 300_000


def test_what_still_runs_keeps_its_output(processes: Processes, spools: Spools) -> None:
    running, _ = call(processes.start, shell=f"head -c {LONG} /dev/zero; sleep 60")
    call(processes.read_output, pid=running["pid"], stdout_offset=LONG - 1, wait_ms=int(PATIENCE_S * 1000))
    ran(processes, LONG)
    ran(processes, LONG)
    assert begins(processes, running["pid"], 300_000) == 300_000
    assert spools.used <= 2 * MOST


def test_the_output_of_a_command_of_a_session_is_kept_whole_until_the_next(sessions: Sessions, spools: Spools) -> None:
    number = printed(sessions, LONG)
    assert shown_from(sessions, number, 300_000) == 300_000
    assert spools.used == LONG
    printed(sessions, 10)
    assert spools.used == 0


def test_old_outputs_make_room_for_the_command_of_a_session(
    processes: Processes, sessions: Sessions, spools: Spools
) -> None:
    first, second = ran(processes, LONG), ran(processes, LONG)
    number = printed(sessions, LONG)
    assert [begins(processes, pid, 300_000) == 300_000 for pid in (first, second)] == [False, True]
    assert shown_from(sessions, number, 300_000) == 300_000
    assert spools.used == 2 * LONG


def test_the_output_of_an_idle_session_makes_room_when_the_others_still_run(
    processes: Processes, sessions: Sessions, spools: Spools
) -> None:
    running, _ = call(processes.start, shell=f"head -c {LONG} /dev/zero; sleep 60")
    call(processes.read_output, pid=running["pid"], stdout_offset=LONG - 1, wait_ms=int(PATIENCE_S * 1000))
    number = printed(sessions, LONG)
    assert spools.used == 2 * LONG
    last = ran(processes, LONG)
    assert shown_from(sessions, number, 300_000) > 300_000
    assert begins(processes, running["pid"], 300_000) == begins(processes, last, 300_000) == 300_000
