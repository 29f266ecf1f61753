"""A host with KVM, emulated: QEMU plays an AMD machine with SVM, in which an ordinary kernel has a real /dev/kvm.

Its root is this machine's own file system through virtiofs, below an overlay in memory: everything that is installed
here is there, and nothing that it does lasts. About 30 times slower than metal: ratios hold, times do not. What it
works with here, such as images, must not change meanwhile, since an overlay whose lower layer changes gives stale
handles: it does not run beside other tests.
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
# Why a kernel died stands far above its last line.
_CONSOLE_LINES = 200
_LOOK_S = 1
# QEMU 7.2 emulates `cmpxchg16b` wrongly at times (it spoils the flags): Linux's slab allocator uses it if it is there.
_CPU = "EPYC,+svm,+npt,-cx16"
# The first is the kernel's alone (start.sh says why), so the job has two.
_PROCESSORS = 3
# Now and then the emulation stops for ever, the host's kernel in it. Its heart beats every 5 s once it has booted; that
# takes a minute, and several on a busy machine.
_STANDSTILL_S = 150
_BOOT_S = 600


class NoHost(Exception):
    """The machine cannot emulate a KVM host; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a job.

    Attributes:
        status: Its exit status; None if the host ended or was ended before the job did.
        output: What it printed.
        console: The host's console, its last lines.
    """

    status: int | None
    output: str
    console: str


def check() -> None:
    """Refuse where no host can be emulated.

    Raises:
        NoHost: With what is missing.
    """
    if os.geteuid() != 0:
        raise NoHost("only root can hand the file system to an emulated host")
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
    """Boot a host, run a job in it as root, and wait for its end. Nothing of it runs on afterwards.

    Args:
        emulator: What it is emulated by.
        kernel: What it boots.
        job: Program and arguments; paths are those of this machine.
        directory: Where the job starts.
        environment: Of the job.
        results: A directory that the job sees as /run/share/results; what it leaves there stays.
        memory_mib: Memory of the host.
        limit_s: After this the host is ended, whatever it does.
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
        said = console.read_text(errors="replace") if console.exists() else (work / "qemu.log").read_text()
        return Done(
            status=int(status.read_text()) if status.exists() and not ended else None,
            output=(share / "out").read_text(errors="replace") if (share / "out").exists() else "",
            console=ended + "\n".join(said.splitlines()[-_CONSOLE_LINES:]),
        )


def _wait(qemu: subprocess.Popen[bytes], beat: Path, limit_s: float) -> str:
    """Wait for the host's own end; or say why it has to be ended."""
    begun = since = time.monotonic()
    seen = ""
    while True:
        try:
            qemu.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        else:
            return ""
        heard = beat.read_text() if beat.exists() else ""
        if heard != seen:
            seen, since = heard, now
        if now - since > (_STANDSTILL_S if seen else _BOOT_S):
            return f"the host stood still for {now - since:.0f} s\n"
        if now - begun > limit_s:
            return f"the host was ended after {limit_s:g} s\n"


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
    """Serve a directory to the host for the length of a block."""
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
    """A process in a group of its own, which is ended with the block."""
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
