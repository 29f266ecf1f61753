"""Values that a guest receives and returns, shared by the link, the machine, the fleet and the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run inside the guest.

    Attributes:
        shell: A line for `/bin/bash -c` (`/bin/sh` where the image has no bash); exclusive with `argv`.
        argv: Program and arguments, found on the guest's PATH.
        cwd: Absolute working directory; empty means the user's home.
        env: Variables added to the guest's default environment.
        user: Name or decimal uid in the guest's `/etc/passwd`; empty means root.
        stdin: Bytes fed to standard input, which is closed afterwards.
        timeout_ms: The whole process tree is killed after this long; 0 means never.
    """

    shell: str | None = None
    argv: tuple[str, ...] = ()
    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict[str, str])
    user: str = ""
    stdin: bytes = b""
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """One captured output stream: all of it, or its head and tail with a gap between them.

    Attributes:
        head: The first bytes.
        tail: The last bytes; empty if nothing was dropped.
        total: Bytes that the process wrote.
        dropped: Bytes between head and tail that were not kept (`total - len(head) - len(tail)`).
    """

    head: bytes = b""
    tail: bytes = b""
    total: int = 0
    dropped: int = 0

    def data(self) -> bytes:
        """Head and tail joined, without a mark at the gap."""
        return self.head + self.tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The state of a command: finished, or still running under its `pid`.

    Attributes:
        pid: The guest's process id, the handle for later calls.
        running: Whether it was still running when the wait ended.
        exit_code: 0-255, or 128 + signal as a shell reports it; None while running.
        signal: The number of the signal that ended it, else None.
        timed_out: Whether the command's own time limit killed its tree.
        stdout, stderr: What was captured so far.
        duration_ms: From start to end, or until now.
        memory_kill: The command's process that the kernel killed for lack of memory, such as `python3 (812 MiB)`; else
            empty.
        network: Which of the sandbox's connections were refused meanwhile, a line for each; empty if none was.
    """

    pid: int
    running: bool
    exit_code: int | None
    signal: int | None
    timed_out: bool
    stdout: Captured
    stderr: Captured
    duration_ms: int
    memory_kill: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A process started through Casemate; finished ones stay listed.

    Attributes:
        command: The shell line, or the arguments joined as a shell would read them.
        started_ms: Guest clock, milliseconds since the epoch.
        stdout_total, stderr_total: Bytes written so far: the offsets at which to continue reading.
        memory_kill: As in `Outcome`.
        background: Whether it was started to go on by itself, or goes on because a wait for it ended first. Agents of
            older guests do not tell, and theirs count as such.
    """

    pid: int
    command: str
    running: bool
    exit_code: int | None
    signal: int | None
    timed_out: bool
    started_ms: int
    duration_ms: int
    stdout_total: int
    stderr_total: int
    memory_kill: str = ""
    background: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSlice:
    """Bytes of one stream from an offset on.

    Attributes:
        offset: Where `data` begins; greater than requested if older bytes are no longer kept.
        data: The bytes.
        next_offset: Where to continue reading.
    """

    offset: int
    data: bytes
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOutput:
    """Both streams of a process from given offsets on, and its state.

    Attributes:
        network: Which of the sandbox's connections were refused, as far as no result has said so; as in `Outcome`.
    """

    info: ProcessInfo
    stdout: OutputSlice
    stderr: OutputSlice
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a process's live output."""

    stream: Literal["stdout", "stderr"]
    offset: int
    data: bytes


FileKind = Literal["file", "directory", "symlink", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """One directory entry or file, as lstat describes it.

    Attributes:
        path: Absolute path in the guest.
        size: Bytes.
        mode: Permission and type bits of st_mode.
        mtime_ms: Modification time, milliseconds since the epoch.
        target: Where a symbolic link points, else empty.
    """

    path: str
    kind: FileKind
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ms: int
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Entries in name order; `truncated` says that there were more than the limit."""

    entries: tuple[FileInfo, ...]
    truncated: bool


Fed = Literal["taken", "full", "closed"]
"""What happened to input for a process: `full` if it does not read, `closed` if it no longer reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSlice:
    """A range of a file's bytes.

    Attributes:
        more: Whether the file continues after it.
        stated: The size of the whole file according to the guest's kernel: wrong for files that the kernel
            generates, such as those of /proc.
    """

    offset: int
    data: bytes
    more: bool
    stated: int

    @property
    def end(self) -> int:
        """The offset of its end."""
        return self.offset + len(self.data)

    @property
    def size(self) -> int | None:
        """Bytes of the whole file; None if unknown."""
        if self.more:
            return self.stated if self.stated > self.end else None
        if self.data or not self.offset:
            return self.end
        return self.stated if 0 < self.stated <= self.offset else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReport:
    """The result of packing or unpacking.

    Attributes:
        files: Number of entries except directories.
        size: Bytes of content.
        skipped: How many were left out.
        listed: Path and reason of the first thousand of these.
    """

    files: int
    size: int
    skipped: int
    listed: tuple[tuple[str, str], ...]


ArchiveForm = Literal["tar", "tar.gz", "tar.bz2", "zip"]
"""The format of an archive in the guest, and the suffix of its name."""

ARCHIVE_SUFFIXES: Mapping[str, ArchiveForm] = {
    ".tar": "tar",
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.bz2": "tar.bz2",
    ".tbz2": "tar.bz2",
    ".zip": "zip",
}
"""The suffixes of archives that the guest can unpack, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeArchive:
    """An archive that was made in the guest.

    Attributes:
        archive: Its path.
        archive_size: Its size in bytes.
        report: What it contains, and what was left out.
    """

    archive: str
    archive_size: int
    report: ArchiveReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A search hit: a file, and for a content search the first matching line.

    Attributes:
        line_number: 1-based; 0 for a match by name.
        line: The line, cut to 500 bytes; empty for a match by name.
    """

    path: str
    line_number: int = 0
    line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits in path order; `truncated` says that the limit or the time was reached first."""

    matches: tuple[Match, ...]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalInfo:
    """A pseudo-terminal in the guest; it outlives the connections that use it."""

    terminal_id: str
    pid: int
    cols: int
    rows: int
    command: str
    started_ms: int
    alive: bool
    exit_code: int | None
    output_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalOutput:
    """Raw terminal output from an offset on, and the terminal's state."""

    info: TerminalInfo
    output: OutputSlice


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """How a command of a session stands.

    Attributes:
        running: Whether it still runs.
        exit_code: The status that the shell gave it, 130 if it was interrupted; None while it runs.
        timed_out: Whether it was interrupted because of its time limit.
        ended: Whether the session has ended with it, because its shell did.
    """

    running: bool
    exit_code: int | None
    timed_out: bool
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOutcome:
    """A command of a session, and both ends of what its terminal showed meanwhile.

    Attributes:
        number: The command's number in the session.
        network: As in `Outcome`.
    """

    number: int

    state: SessionState
    output: Captured
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOutput:
    """Output of a session's command from an offset on.

    Attributes:
        total: Bytes that were printed so far.
    """

    state: SessionState
    output: OutputSlice
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestMetrics:
    """The guest's own view of its resources. Memory and disk in bytes, times in milliseconds."""

    uptime_ms: int
    memory_total: int
    memory_available: int
    disk_total: int
    disk_free: int
    cpu_used_ms: int
    processes: int
    agent_memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestActivity:
    """What runs in a guest independently of calls from outside.

    Attributes:
        processes: Running processes besides the kernel's and the agent's own, including daemons.
        terminals: Open terminals whose program runs.
        connections: Established TCP connections to ports that something in the guest listens on.
    """

    processes: int
    terminals: int
    connections: int

    @property
    def idle(self) -> bool:
        """Whether nothing runs independently of calls."""
        return not (self.processes or self.terminals or self.connections)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """An agent's description of itself.

    Attributes:
        nonce: Random hex that exists only in the agent's memory: equal nonces mean restored, not rebooted.
        clock_ns: The guest's clock, nanoseconds since the epoch.
        monotonic_ns: The guest's monotonic clock, for measuring its rate.
    """

    version: str
    nonce: str
    clock_ns: int
    monotonic_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identity that separates a clone from all other machines.

    Attributes:
        entropy: At least 32 fresh random bytes for the guest kernel's pool.
        machine_id: 32 hex digits for /etc/machine-id.
        hostname: DNS-1123 label.
        secret: The agent's new secret, at least 32 bytes; the old one stops working at once.
        nic: What its network device gets: `mac`, `address` with the length of the prefix, and `gateway`; None to have
            what leaves the sandbox go over the link.
    """

    entropy: bytes
    machine_id: str
    hostname: str
    secret: bytes
    nic: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The agent's proof, read back from the guest's kernel and files, that its new identity is in effect."""

    nonce: str
    entropy_mixed: bool
    clock_ns: int
    machine_id: str
    hostname: str
    nic: Mapping[str, str] | None = None
