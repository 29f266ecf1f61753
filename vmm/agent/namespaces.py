"""The namespaces that isolate a sandbox's programs from the agent, which stays outside of them.

The programs see only their own processes, network devices and cgroups. So nothing in a sandbox, not even its root user,
can address the agent, its connections, or the device that carries these. Only the mount namespace is shared, since the
agent's paths are the sandbox's. The root is changed by pivot_root rather than chroot, since the kernel lets no process
in a chroot create user namespaces.

Python has these calls since 3.12 at the earliest, hence ctypes, which must be imported before the root changes, while
its libraries can be found.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Self

from .cgroups import Groups
from .netlink import Netlink
from .network import NetworkSockets
from .nic_settings import SettingsFile
from .uplink import Uplink, connect

_LIBC = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the GIL, since no call here blocks.
_NEW_MOUNTS, _NEW_CGROUPS, _NEW_PIDS, _NEW_NET = 0x00020000, 0x02000000, 0x20000000, 0x40000000
_ISOLATED = _NEW_CGROUPS | _NEW_PIDS | _NEW_NET
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
_RESTRICTED = _NOSUID | _NODEV | _NOEXEC
_DETACH = 2
_SYS_PIVOT_ROOT = 155
_SET_DEATH_SIGNAL, _SET_NAME = 1, 15
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _UP = 0x8913, 0x8914, 0x1
_READY = b"ready"
_SETTINGS = {"/sys/net/ipv4/ping_group_range": b"0 2147483647"}
"""Settings of the sandbox's network, below /proc: every user may ping."""


class Namespaces:
    """The namespaces of one sandbox, kept alive by its first process, which only reaps orphans.

    Attributes:
        proc: A descriptor of the /proc that the sandbox's programs see.
        first: A pidfd of the first process; readable once that process has ended, and all others with it.
        sockets: The agent's ends of the sandbox's network; None if it has none.
        uplink: Leads the sandbox's network through the machine's device, or not; None if there is no such device.
    """

    def __init__(self, proc: int, first: int, sockets: NetworkSockets | None, uplink: Uplink | None) -> None:
        self.proc = proc
        self.first = first
        self.sockets = sockets
        self.uplink = uplink
        # A pidfd of the main thread, which never enters the sandbox.
        self._own = os.pidfd_open(os.getpid())

    @classmethod
    def make(cls, root: str, groups: Groups | None, file: SettingsFile | None) -> Self:
        """Create the namespaces and mount their /proc, /sys and cgroups below `root`, before any thread is started.

        Args:
            root: The sandbox's root directory.
            groups: The cgroups, if there are any.
            file: Keeps the settings of the machine's network device.

        Raises:
            OSError: The kernel does not support it, or this user lacks the privileges.
        """
        # Opened for the way back: a pidfd of this process refers to the namespaces that it is in at that time.
        own = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("cgroup", "pid", "net")]
        _call(_LIBC.unshare(_NEW_MOUNTS))
        _mount("", "/", "", _REC | _PRIVATE)
        if not os.path.ismount(root):
            _mount(root, root, "", _BIND | _REC)
        outside = Netlink()
        if groups is not None:
            groups.join_sandbox()  # Its cgroup becomes the root of the new cgroup namespace.
        _call(_LIBC.unshare(_ISOLATED))
        if groups is not None:
            groups.return_home()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _run_first(root, writer, with_cgroups=groups is not None)
        os.close(writer)
        report = os.read(reader, 1000)
        os.close(reader)
        if report != _READY:
            raise OSError(0, report.decode() or "the sandbox's first process ended during its startup")
        sockets, uplink = connect(outside, file)
        outside.close()
        for namespace in own:
            _call(_LIBC.setns(namespace, 0))
            os.close(namespace)
        return cls(os.open(f"{root}/proc", os.O_RDONLY | os.O_DIRECTORY), os.pidfd_open(pid), sockets, uplink)

    def enter(self) -> None:
        """Start the calling thread's children in the sandbox until `leave`; it must not start threads meanwhile.

        Raises:
            OSError: The sandbox's first process has ended.
        """
        _call(_LIBC.setns(self.first, _ISOLATED))

    def leave(self) -> None:
        """Undo `enter`; without it this does nothing."""
        _call(_LIBC.setns(self._own, _ISOLATED))

    @contextmanager
    def network(self) -> Generator[None]:
        """Let the calling thread make sockets in the sandbox's network for the length of a block.

        Raises:
            OSError: The sandbox's first process has ended.
        """
        _call(_LIBC.setns(self.first, _NEW_NET))
        try:
            yield
        finally:
            _call(_LIBC.setns(self._own, _NEW_NET))


def pivot(root: str) -> None:
    """Make a mount the root of all processes of this mount namespace, and detach the old root.

    `pivot_root(".", ".")` needs no directory for the old root, which stays stacked on the new one until it is detached,
    see pivot_root(2).

    Raises:
        OSError: The kernel does not allow it.
    """
    os.chdir(root)
    _call(_LIBC.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."))
    _call(_LIBC.umount2(b".", _DETACH))
    os.chdir("/")


def _run_first(root: str, writer: int, *, with_cgroups: bool) -> None:
    """Set up the sandbox as its first process, then reap orphans until it is killed."""
    try:
        _call(_LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
        _call(_LIBC.prctl(_SET_NAME, b"init", 0, 0, 0))
        for number in signal.valid_signals():
            if number not in {signal.SIGKILL, signal.SIGSTOP}:
                # Without a handler, the kernel drops signals from inside to the first process; the agent's would run.
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        _mount("proc", f"{root}/proc", "proc", _RESTRICTED)
        _mount("sysfs", f"{root}/sys", "sysfs", _RESTRICTED)
        if with_cgroups:
            _mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2", _RESTRICTED)
        _loopback_up()
        for name, value in _SETTINGS.items():
            _attempt(_set, f"{root}/proc{name}", value)
        os.write(writer, _READY)
        os.closerange(3, 1024)
        while True:
            signal.sigwait({signal.SIGCHLD})
            while _reap():
                pass
    except OSError as error:
        os.write(writer, str(error).encode()[:1000])
    finally:
        os._exit(1)


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh", b"lo", 0).ljust(40, b"\0")
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _UP).ljust(40, b"\0"))


def _set(path: str, value: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


def _attempt(step: Callable[..., None], *arguments: object) -> None:
    """Run a step that a sandbox can do without, ignoring its failure."""
    try:
        step(*arguments)
    except OSError:
        return


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _call(_LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None))


def _call(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
