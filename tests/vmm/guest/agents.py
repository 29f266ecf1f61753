"""The agent as a real process on this host, for tests of both ends of the link."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

import vmm.agent
from tests.waiting import PATIENCE_S
from vmm.guest.link import GuestLink
from vmm.guest.vitality import GRACE, Grace

AGENT = Path(vmm.agent.__file__).parent
_ALONE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A running agent."""

    process: subprocess.Popen[bytes]
    port: int
    secret: bytes
    log: Path

    def link(self, secret: bytes | None = None, *, grace: Grace = GRACE) -> GuestLink:
        return GuestLink(partial(anyio.connect_tcp, "127.0.0.1", self.port), secret or self.secret, grace=grace)

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Stop the agent during a block; everything sent to it waits."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def resident(self) -> int:
        """Bytes of memory."""
        return resident(self.process.pid)

    def holds(self, group: str) -> bool:
        """Tell whether a cgroup belongs to this agent."""
        processes = Path(group, "agent/cgroup.procs")
        try:
            return str(self.process.pid) in processes.read_text().split()
        except OSError:
            return False  # Of another agent, which has just ended.


def can_be_alone() -> bool:
    """Tell whether this user may create PID namespaces."""
    return shutil.which(_ALONE[0]) is not None and subprocess.run([*_ALONE, "true"], check=False).returncode == 0


@contextmanager
def agent(directory: Path, *options: str, alone: bool = False) -> Generator[Agent]:
    """Run an agent during a block; it must end cleanly and log no errors.

    Args:
        directory: The directory of its files.
        options: Options of its command line.
        alone: Whether it sees no processes but its own, as in a guest; see `can_be_alone`.
    """
    secret = secrets.token_bytes(32)
    (directory / "secret").write_text(secret.hex())
    port_file, log = directory / "port", directory / "log"
    command = [sys.executable, "-I", "-S", "-B", "-u", str(AGENT), "--listen", "127.0.0.1:0"]
    files = ["--port-file", str(port_file), "--secret-file", str(directory / "secret"), "--no-identity-privileges"]
    before = _ALONE if alone else ()
    if "--root" not in options:  # a separate root has its own users
        files += ["--users-file", str(users_at(directory))]
    with log.open("wb") as stderr, subprocess.Popen([*before, *command, *files, *options], stderr=stderr) as process:
        try:
            end = time.monotonic() + PATIENCE_S
            while not port_file.exists():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(0.01)
            yield Agent(process=process, port=int(port_file.read_text()), secret=secret, log=log)
        finally:
            os.kill(_child(process.pid) if alone else process.pid, signal.SIGTERM)
            try:
                status = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert status == 0, f"exit status {status}: {log.read_text()}"
    assert not log.read_text()


def users_at(directory: Path) -> Path:
    """Return the host's users, but with a home below the directory for this user, because shells read files there."""
    home, passwd = directory / "home", directory / "passwd"
    home.mkdir(exist_ok=True)
    lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    moved = [[*line[:5], str(home), *line[6:]] if line[2:3] == [str(os.geteuid())] else line for line in lines]
    passwd.write_text("".join(":".join(line) + "\n" for line in moved))
    return passwd


def resident(pid: int) -> int:
    """Bytes of a process's memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def living(marker: str) -> list[int]:
    """Return the processes that have the marker among their arguments."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marker.encode() in words and state != "Z":
                found.append(int(entry.name))
    return found


def groups() -> set[str]:
    """The cgroups that agents have made on this host."""
    return {str(path) for place in ("", "unified") for path in Path("/sys/fs/cgroup", place).glob("casemate-*")}
