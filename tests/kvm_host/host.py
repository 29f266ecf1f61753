"""An emulated host with KVM: QEMU emulates an AMD machine with SVM, in which an ordinary kernel has a real /dev/kvm.

Its root is this machine's file system through virtiofs, below an overlay in memory: it sees everything that is
installed here, and none of its changes last. It is about 30 times slower than metal: ratios hold, times do not. Files
that it uses, such as images, must not change meanwhile, because an overlay whose lower layer changes returns stale
handles. So do not run it in parallel with other tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .emulator import Emulator
from .kernel import HostKernel

_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
_HERE = Path(__file__).parent
_SOCKET_S = 60
# The reason for a kernel's crash is printed far above its last line.
_CONSOLE_LINES = 200
_LOOK_S = 1
# QEMU 7.2 sometimes emulates `cmpxchg16b` with wrong flags, and Linux's slab allocator uses it if it is available.
_CPU = "EPYC,+svm,+npt,-cx16"
# The first is reserved for the kernel (start.sh says why), so the job has two.
_PROCESSORS = 3
# Occasionally the emulation, with the host's kernel, hangs. The host sends a heartbeat every 5 s once it has booted,
# which takes a minute, or several on a busy machine.
_HEARTBEAT_S = 150
_BOOT_S = 600


class NoHost(Exception):
    """The machine cannot emulate a KVM host; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of a job.

    Attributes:
        status: Its exit status; None if the host ended, or was stopped, before the job ended.
        output: What it printed.
        console: The last lines of the host's console.
    """

    status: int | None
    output: str
    console: str


def check() -> None:
    """Check that this machine can emulate a host.

    Raises:
        NoHost: Something is missing.
    """
    if os.geteuid() != 0:
        raise NoHost("only root can share the file system with an emulated host")
    if shutil.which("qemu-system-x86_64") is None:
        raise NoHost("qemu-system-x86_64 is not installed")
    _virtiofsd()


def run(
    emulator: Emulator,
    kernel: HostKernel,
    job: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    results: Path,
    memory_mib: int = 6144,
    limit_s: float = 900,
) -> Done:
    """Boot a host, run a job in it as root, and wait for its end. Afterwards none of its processes runs.

    Args:
        emulator: The QEMU that emulates it.
        kernel: The kernel that it boots.
        job: Program and arguments; paths are those of this machine.
        directory: The job's working directory.
        environment: The job's environment.
        results: A directory that receives the files that the job writes to /run/share/results.
        memory_mib: Memory of the host.
        limit_s: Seconds after which the host is stopped in any case.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-host-") as scratch, ExitStack() as stack:
        work, share = Path(scratch), Path(scratch, "share")
        _fill(share, kernel, job, directory, environment)
        results.mkdir(parents=True, exist_ok=True)
        for tag, source in (("root", Path("/")), ("share", share)):
            stack.enter_context(_shared(work / f"{tag}.sock", source, work / f"{tag}.log", cache=tag == "root"))
        console = work / "console.log"
        command = _qemu(emulator, kernel, work, console, memory_mib)
        with (work / "qemu.log").open("wb") as log, _process(command, log, emulator.environment) as qemu:
            ended = _wait(qemu, share / "beat", limit_s)
        status = share / "status"
        shutil.copytree(share / "results", results, dirs_exist_ok=True)
        printed = console.read_text(errors="replace") if console.exists() else (work / "qemu.log").read_text()
        return Done(
            status=int(status.read_text()) if status.exists() and not ended else None,
            output=(share / "out").read_text(errors="replace") if (share / "out").exists() else "",
            console=ended + "\n".join(printed.splitlines()[-_CONSOLE_LINES:]),
        )


def _wait(qemu: subprocess.Popen[bytes], beat: Path, limit_s: float) -> str:
    """Wait until the host has ended; return the reason if it must be stopped, else an empty string."""
    begun = since = time.monotonic()
    seen = ""
    while True:
        try:
            qemu.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        else:
            return ""
        heartbeat = beat.read_text() if beat.exists() else ""
        if heartbeat != seen:
            seen, since = heartbeat, now
        if now - since > (_HEARTBEAT_S if seen else _BOOT_S):
            return f"the host sent no heartbeat for {now - since:.0f} s\n"
        if now - begun > limit_s:
            return f"the host was stopped after {limit_s:g} s\n"


def _fill(share: Path, kernel: HostKernel, job: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    share.joinpath("results").mkdir(parents=True)
    shutil.copy(_HERE / "start.sh", share)
    shutil.copytree(kernel.modules, share / "modules", symlinks=True)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += [f"cd {shlex.quote(str(directory))}", f"exec {shlex.join(job)}", ""]
    (share / "job.sh").write_text("\n".join(lines))


def _qemu(emulator: Emulator, kernel: HostKernel, work: Path, console: Path, memory_mib: int) -> list[str]:
    shares: list[str] = []
    for tag in ("root", "share"):
        shares += ["-chardev", f"socket,id={tag},path={work / tag}.sock"]
        shares += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
    return [
        *(*emulator.command, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", _CPU),
        *("-smp", str(_PROCESSORS), "-m", str(memory_mib)),
        *("-nographic", "-nodefaults", "-no-reboot", "-serial", f"file:{console}"),
        *("-object", f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on", "-numa", "node,memdev=mem"),
        *shares,
        *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1"),
    ]


@contextmanager
def _shared(socket: Path, source: Path, log: Path, *, cache: bool) -> Generator[None]:
    """Serve a directory to the host during a block."""
    options = ["-o", f"source={source}", "-o", f"cache={'always' if cache else 'auto'}", "-o", "sandbox=chroot"]
    with log.open("wb") as output, _process([_virtiofsd(), f"--socket-path={socket}", *options], output) as server:
        for _ in range(_SOCKET_S * 100):
            if socket.exists() or server.poll() is not None:
                break
            try:
                server.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        if not socket.exists():
            raise NoHost(f"virtiofsd does not serve {source}: {log.read_text()[-300:]}")
        yield


@contextmanager
def _process(
    command: Sequence[str], log: BinaryIO, environment: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """Run a process in its own group, which is killed at the end of the block."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.poll()


def _virtiofsd() -> str:
    for path in _VIRTIOFSD:
        if Path(path).exists():
            return path
    raise NoHost("virtiofsd is not installed: apt-get install qemu-system-common (or virtiofsd)")
