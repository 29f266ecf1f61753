"""Counting processes and connections, in a fake /proc with files as the kernel writes them."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from vmm.agent.activity import count_connections, count_processes

_KERNEL = 0x00208040
_ORDINARY = 0x00400100
_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
_REST = "00000000:00000000 00:00000000 00000000     0        0 5152 1 0000000000000000 100 0 0 10 0"
_LISTEN, _ESTABLISHED, _CLOSED = "0A", "01", "06"


class Proc:
    """A fake /proc that a test fills."""

    def __init__(self, root: Path, descriptor: int) -> None:
        self.root = root
        self.descriptor = descriptor

    def process(self, pid: int, parent: int, *, name: str = "sleep", state: str = "S", flags: int = _ORDINARY) -> None:
        (self.root / str(pid)).mkdir()
        (self.root / str(pid) / "stat").write_text(f"{pid} ({name}) {state} {parent} 1 1 0 -1 {flags} 88 0 0 0 0 0\n")

    def table(self, name: str, *rows: tuple[str, str, str]) -> None:
        (self.root / "1/net").mkdir(parents=True, exist_ok=True)
        lines = [
            f"   {number}: {local} {remote} {state} {_REST}\n" for number, (local, remote, state) in enumerate(rows)
        ]
        (self.root / "1/net" / name).write_text(_HEAD + "".join(lines))


@pytest.fixture
def proc(tmp_path: Path) -> Generator[Proc]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield Proc(tmp_path, descriptor)
    os.close(descriptor)


def test_kernel_threads_init_and_the_agent_do_not_count(proc: Proc) -> None:
    proc.process(1, 0, name="init")
    proc.process(2, 0, name="kthreadd", flags=_KERNEL)
    proc.process(9, 2, name="kworker/0:1-ev", flags=_KERNEL)
    proc.process(70, 1, name="python3")
    (proc.root / "uptime").write_text("1.0 1.0\n")
    assert count_processes(proc.descriptor, 70) == 0


def test_a_daemon_counts_whatever_its_name_is(proc: Proc) -> None:
    proc.process(1, 0, name="init")
    proc.process(70, 1, name="python3")
    proc.process(80, 70, name="sh")
    proc.process(90, 1, name="a) Z 0 (b")
    proc.process(91, 2, name="[kworker/0:1]")
    assert count_processes(proc.descriptor, 70) == 3


def test_ended_processes_that_are_not_reaped_yet_do_not_count(proc: Proc) -> None:
    proc.process(70, 1)
    proc.process(80, 70, state="Z")
    proc.process(81, 70, state="X")
    (proc.root / "82").mkdir()
    assert count_processes(proc.descriptor, 70) == 0


def test_a_stopped_process_counts(proc: Proc) -> None:
    proc.process(70, 1)
    proc.process(80, 70, state="T")
    assert count_processes(proc.descriptor, 70) == 1


def test_a_loopback_connection_counts_once_at_its_listening_port(proc: Proc) -> None:
    proc.table(
        "tcp",
        ("00000000:1F90", "00000000:0000", _LISTEN),
        ("0100007F:1F90", "0100007F:C350", _ESTABLISHED),
        ("0100007F:C350", "0100007F:1F90", _ESTABLISHED),
        ("0100007F:1F90", "0100007F:C351", _CLOSED),
    )
    assert count_connections(proc.descriptor, 1, frozenset({1024})) == 1


def test_the_agents_own_connections_do_not_count(proc: Proc) -> None:
    proc.table(
        "tcp",
        ("00000000:0400", "00000000:0000", _LISTEN),
        ("0F02000A:0400", "0202000A:C350", _ESTABLISHED),
        ("0F02000A:0400", "0202000A:C351", _ESTABLISHED),
    )
    assert count_connections(proc.descriptor, 1, frozenset({1024})) == 0


def test_an_ipv4_connection_to_a_port_that_listens_on_ipv6_counts_once(proc: Proc) -> None:
    anywhere, here = "0" * 32, "0000000000000000FFFF00000100007F"
    proc.table("tcp", ("0100007F:C350", "0100007F:1F90", _ESTABLISHED))
    proc.table(
        "tcp6",
        (f"{anywhere}:1F90", f"{anywhere}:0000", _LISTEN),
        (f"{here}:1F90", f"{here}:C350", _ESTABLISHED),
    )
    assert count_connections(proc.descriptor, 1, frozenset()) == 1


def test_outgoing_connections_do_not_count(proc: Proc) -> None:
    proc.table("tcp", ("0F02000A:C350", "01010101:01BB", _ESTABLISHED))
    assert count_connections(proc.descriptor, 1, frozenset()) == 0


def test_a_kernel_without_tcp_has_no_connections(proc: Proc) -> None:
    assert count_connections(proc.descriptor, 1, frozenset()) == 0
