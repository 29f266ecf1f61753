"""Starts a hypervisor's program: in a session of its own so that it outlives the server, and without privileges.

The thread that starts the program drops the privileges that the program may not have, since children inherit them. A
wrapper (env, prlimit, setpriv) would do the same, but each takes several milliseconds. The thread ends afterwards,
because it cannot regain what it dropped. Source: prctl(2), capset(2), capabilities(7), prlimit(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .process import ProcessRef
from .users import User

CONTROL = 0
"""The descriptor of a program's control socket: it reads nothing, so its standard input is free."""

_FILES = 2048  # descriptors: a few dozen of the program's own, one or two for each connection to the guest
_FILE_SIZE = 20 * 1024**3  # above the largest disk (10 GiB) and the largest memory (16 GiB)

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8
_CAP_DAC_OVERRIDE = 1 << 1
_SYS_SETGROUPS, _SYS_SETRESUID, _SYS_SETRESGID = 116, 117, 119  # of x86_64


def spawn(
    argv: Sequence[str],
    *,
    directory: Path,
    log: Path,
    control: socket.socket | None = None,
    user: User | None = None,
    processes: int = 0,
    tap: int | None = None,
) -> ProcessRef:
    """Start a program detached from the server, without privileges. Blocks until it runs.

    It leads its own session, works in `directory` (by which `orphans` finds it), reads nothing, and writes to `log`.
    It cannot gain privileges; if root starts it, it has no capabilities. It leaves no core file, which would contain
    its guest's memory.

    Args:
        argv: The program and its arguments.
        directory: Its working directory. The user need not be able to enter the parents.
        log: The file for its output.
        control: A listening socket; the program gets it as `CONTROL`.
        user: The user it runs as; the server's user if None.
        processes: How many processes and threads that user may have; 0 for no limit.
        tap: A descriptor that the program gets besides, under the same number.

    Raises:
        OSError: It does not exist, or this process lacks the right to start it like this.
    """
    with ThreadPoolExecutor(1) as thread:
        pid = thread.submit(_start, argv, directory, log, control, user, processes, tap).result()
    process = ProcessRef.of(pid)
    return process if process is not None else ProcessRef(pid, 0)


def _start(
    argv: Sequence[str],
    directory: Path,
    log: Path,
    control: socket.socket | None,
    user: User | None,
    processes: int,
    tap: int | None,
) -> int:
    _drop_privileges()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if user is not None:
            _switch_user(user)
        program = subprocess.Popen(
            argv,
            cwd=directory,
            env={"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL if control is None else control.fileno(),
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            pass_fds=() if tap is None else (tap,),
        )
    finally:
        os.close(descriptor)
    # From here on, only `ProcessRef` waits for it.
    program.returncode = 0
    # The program has just started, so no guest runs yet.
    _limit(program.pid, user, processes)
    return program.pid


def _drop_privileges() -> None:
    """Prevent this thread's children from gaining or inheriting privileges. The thread keeps those that it needs."""
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if os.geteuid() == 0:
        capability = 0
        while _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
            capability += 1
        if ctypes.get_errno() != errno.EINVAL:  # the end of the list
            _check(-1)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Twice, for the lower and the upper half: effective, permitted, inheritable.
    sets = (ctypes.c_uint32 * 6)()
    _check(_LIBC.capget(header, sets))
    sets[2] = sets[5] = 0
    _check(_LIBC.capset(header, sets))


def _switch_user(user: User) -> None:
    """Change this thread's user, but keep the right to enter any directory, which the started program loses.

    If given a user, `subprocess` would fork, and copying the page tables takes several milliseconds. Uses system calls,
    because the C library's functions change all threads of a process.
    """
    _check(_LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    groups = (ctypes.c_uint32 * len(user.groups))(*user.groups)
    _check(_LIBC.syscall(_SYS_SETGROUPS, len(groups), groups))
    _check(_LIBC.syscall(_SYS_SETRESGID, user.uid, user.uid, user.uid))
    _check(_LIBC.syscall(_SYS_SETRESUID, user.uid, user.uid, user.uid))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_LIBC.capset(header, (ctypes.c_uint32 * 6)(_CAP_DAC_OVERRIDE, _CAP_DAC_OVERRIDE)))


def _limit(pid: int, user: User | None, processes: int) -> None:
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: _FILES, resource.RLIMIT_FSIZE: _FILE_SIZE}
    if user is not None and processes:
        wanted[resource.RLIMIT_NPROC] = processes
    try:
        for limit, most in wanted.items():
            hard = resource.getrlimit(limit)[1]
            # A process cannot set limits above its own.
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, limit, (value, value))
    except ProcessLookupError:
        return  # it has ended, which its owner will notice
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _check(result: int) -> None:
    if result != 0:
        failed = ctypes.get_errno()
        raise OSError(failed, f"a program cannot be started without privileges: {os.strerror(failed)}")
