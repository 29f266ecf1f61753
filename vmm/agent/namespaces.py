"""Where a sandbox's programs live: in namespaces of their own, outside of which the agent stays.

They see their own processes, network devices and cgroups and no others. So nothing in a sandbox, not even its root, can
name the agent, its connections, or the device through which these come. Only mounts are shared, since the agent's
paths are the sandbox's; its root is pivoted rather than changed, as programs that make user namespaces need it.

Python has these calls from 3.12 on at best, hence ctypes, which must be loaded while its libraries can be found.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Self

from .cgroups import Groups

_LIBC = ctypes.PyDLL(None, use_errno=True)  # Keeps the interpreter's lock: no call here blocks.
_NEW_MOUNTS, _NEW_CGROUPS, _NEW_PIDS, _NEW_NET = 0x00020000, 0x02000000, 0x20000000, 0x40000000
_APART = _NEW_CGROUPS | _NEW_PIDS | _NEW_NET
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
_PLAIN = _NOSUID | _NODEV | _NOEXEC
_DETACH = 2
_SYS_PIVOT_ROOT = 155
_SET_DEATH_SIGNAL, _SET_NAME = 1, 15
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _UP = 0x8913, 0x8914, 0x1
_READY = b"ready"
_SETTINGS = {"/sys/net/ipv4/ping_group_range": b"0 2147483647"}
"""Of the sandbox's network, below /proc: anybody may ping."""


class Namespaces:
    """The namespaces of one sandbox, held by its first process, which does nothing but reap orphans.

    Attributes:
        proc: A descriptor of the /proc that the sandbox's programs see.
        first: A descriptor of the first process; readable once that has ended, and everything with it.
    """

    def __init__(self, proc: int, first: int) -> None:
        self.proc = proc
        self.first = first
        # Of the main thread, which never enters.
        self._own = os.pidfd_open(os.getpid())

    @classmethod
    def make(cls, root: str, groups: Groups | None) -> Self:
        """Make them, with the file systems that show them mounted below `root`. To be called before any thread starts.

        Raises:
            OSError: The kernel, or the user's rights, do not allow it.
        """
        # The ways back: by its own pidfd a process finds only what it is in at the moment.
        own = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("cgroup", "pid", "net")]
        _call(_LIBC.unshare(_NEW_MOUNTS))
        _mount("", "/", "", _REC | _PRIVATE)
        if not os.path.ismount(root):
            _mount(root, root, "", _BIND | _REC)
        if groups is not None:
            groups.join_sandbox()  # Whose cgroup namespace begins where its maker is.
        _call(_LIBC.unshare(_APART))
        if groups is not None:
            groups.return_home()
        told, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _be_first(root, tell, with_cgroups=groups is not None)
        os.close(tell)
        said = os.read(told, 1000)
        os.close(told)
        if said != _READY:
            raise OSError(0, said.decode() or "the sandbox's first process ended while it started")
        for namespace in own:
            _call(_LIBC.setns(namespace, 0))
            os.close(namespace)
        return cls(os.open(f"{root}/proc", os.O_RDONLY | os.O_DIRECTORY), os.pidfd_open(pid))

    def enter(self) -> None:
        """Let the children of the calling thread be born in the sandbox until `leave`; it must start no thread.

        Raises:
            OSError: The sandbox's first process has ended.
        """
        _call(_LIBC.setns(self.first, _APART))

    def leave(self) -> None:
        """Undo `enter`; a no-op without it."""
        _call(_LIBC.setns(self._own, _APART))


def pivot(root: str) -> None:
    """Make a mount the root of all processes of this mount namespace, and let go of the old one.

    As pivot_root(2) says: `pivot_root(".", ".")` needs no directory for the old root, which lies on top until it is
    detached.

    Raises:
        OSError: The kernel does not allow it.
    """
    os.chdir(root)
    _call(_LIBC.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."))
    _call(_LIBC.umount2(b".", _DETACH))
    os.chdir("/")


def _be_first(root: str, tell: int, *, with_cgroups: bool) -> None:
    """Be the first process of the sandbox for ever."""
    try:
        _call(_LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
        _call(_LIBC.prctl(_SET_NAME, b"init", 0, 0, 0))
        for number in signal.valid_signals():
            if number not in {signal.SIGKILL, signal.SIGSTOP}:
                # By default a signal from inside does not touch a first process; a handler of the agent's would run.
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        _mount("proc", f"{root}/proc", "proc", _PLAIN)
        _mount("sysfs", f"{root}/sys", "sysfs", _PLAIN)
        if with_cgroups:
            _mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2", _PLAIN)
        _loopback_up()
        for name, value in _SETTINGS.items():
            _attempt(_set, f"{root}/proc{name}", value)
        os.write(tell, _READY)
        os.closerange(3, 1024)
        while True:
            signal.sigwait({signal.SIGCHLD})
            while _reap():
                pass
    except OSError as error:
        os.write(tell, str(error).encode()[:1000])
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
    """Do what a sandbox can do without."""
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
