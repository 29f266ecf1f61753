"""From the command line to a running agent: everything is opened and imported before the root changes."""

from __future__ import annotations

import _thread
import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass

from . import frames
from .activity import Activity
from .arguments import Paths
from .cgroups import Groups
from .files import Files
from .identity import IdentityHolder, SecretFile
from .memory_kills import MemoryKills
from .metrics import Metrics
from .namespaces import Namespaces, pivot
from .processes import Processes
from .procfs import read
from .service import Service
from .spawn import Spawner
from .terminals import Terminals
from .trees import Trees
from .users import Users

_PORT = 1024
_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_SOFT_FILES = 16384
_HARD_FILES = 1024 * 1024
_STARTS_ANEW = 3
"""Exit status that asks for another agent, with a sandbox without processes."""


@dataclass(slots=True, kw_only=True)
class _Options:
    root: str = "/"
    listen: str = ""
    port_file: str = ""
    secret_file: str = ""
    secret_env: str = ""
    users_file: str = "/etc/passwd"
    groups: tuple[str, ...] = _GROUPS
    privileged: bool = True
    isolated: bool = False


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM.

    Options:
        --root DIR: Where commands and paths are rooted (default /).
        --listen HOST:PORT: Where to listen (default 0.0.0.0:1024, and vsock port 1024 where there is vsock).
        --port-file FILE: Where to write the port once it is open.
        --secret-file FILE: Hex digits; rewritten with each new identity.
        --secret-hex-env NAME: An environment variable with hex digits, in place of the file.
        --users-file FILE: Where the users are, and so their homes (default /etc/passwd).
        --cgroup DIR: The cgroup2 to make groups in, or `none`; otherwise the usual places are tried.
        --isolate: Give the sandbox namespaces of its own, and keep processors and memory for the agent.
        --no-identity-privileges: Take the secret of a new identity only, and say so; for tests outside a guest.
    """
    options = _parse(arguments)
    signals = _settle_process()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    random = os.open("/dev/random", os.O_RDWR)
    null = os.open("/dev/null", os.O_RDONLY)
    memory_kills = MemoryKills.open()
    group = Groups.open(options.groups, f"casemate-{os.urandom(4).hex()}")
    # Before the secret is known, since the sandbox's first process begins as a copy of this one.
    namespaces = _isolate(options, proc, group)
    inner, first = (proc, os.getpid()) if namespaces is None else (namespaces.proc, 1)
    secret, secret_file = _secret(options)
    listeners = _listen(options)
    trees = Trees(proc, group)
    spawner = Spawner(trees, proc, _protect(proc), namespaces)
    users = Users(os.fsencode(options.users_file))
    processes = Processes(trees, users, spawner, null, memory_kills)
    terminals = Terminals(trees, users, spawner, memory_kills)
    identity = IdentityHolder(secret, secret_file, random, privileged=options.privileged)
    # None of the host's own connections is anybody's use of a port. Those over vsock are in no table of TCP's.
    own = frozenset(listener.getsockname()[1] for listener in listeners if listener.family == socket.AF_INET)
    activity = Activity(inner, first, terminals, own if namespaces is None else frozenset())
    paths = Paths(first=None if namespaces is None else first)
    service = Service(identity, processes, terminals, Files(), Metrics(proc, inner), activity, paths)
    frames.host_proof(secret, b"", b"")  # The first digest loads what the others use; after chroot it could not.
    if options.port_file:
        _write_port(options.port_file, listeners[0].getsockname()[1])
    if namespaces is not None:
        pivot(options.root)
    elif options.root != "/":
        os.chroot(options.root)
    os.chdir("/")
    status: object = 0
    try:
        for listener in listeners:
            _thread.start_new_thread(service.serve, (listener,))
        status = _wait(signals, namespaces)
    except SystemExit as ending:
        status = ending.code
    finally:
        terminals.close_all()
        processes.close()
        if group:
            group.remove(time.monotonic() + 2.0)
    # Python's own end unwinds its threads with a library that is not there in the sandbox's root.
    os._exit(status if isinstance(status, int) else 0)


def _isolate(options: _Options, proc: int, group: Groups | None) -> Namespaces | None:
    if not options.isolated:
        return None
    # What the kernel takes for itself as it starts is in use by now; what commands take comes on top.
    available = next(
        (
            int(line.split()[1]) * 1024
            for line in read(proc, "meminfo").splitlines()
            if line.startswith(b"MemAvailable")
        ),
        0,
    )
    namespaces = Namespaces.make(options.root, group)
    if group is not None:
        group.keep_reserves(available)
    return namespaces


def _wait(signals: int, namespaces: Namespaces | None) -> int:
    """Wait for a signal that ends the agent, or for the end of the sandbox's first process: a reboot from inside."""
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    if namespaces is not None:
        poll.register(namespaces.first, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != signals:
                return _STARTS_ANEW
            os.read(signals, 64)


def _parse(arguments: list[str]) -> _Options:
    options = _Options()
    rest = list(arguments)
    while rest:
        name = rest.pop(0)
        if name == "--no-identity-privileges":
            options.privileged = False
            continue
        if name == "--isolate":
            options.isolated = True
            continue
        if not rest:
            sys.exit(f"agent: {name} needs a value, or is not known")
        value = rest.pop(0)
        if name == "--root":
            options.root = value
        elif name == "--listen":
            options.listen = value
        elif name == "--port-file":
            options.port_file = value
        elif name == "--secret-file":
            options.secret_file = value
        elif name == "--secret-hex-env":
            options.secret_env = value
        elif name == "--users-file":
            options.users_file = value
        elif name == "--cgroup":
            options.groups = () if value == "none" else (value,)
        else:
            sys.exit(f"agent: {name} is not known")
    return options


def _settle_process() -> int:
    """Make the process what its children should inherit; a descriptor from which a byte can be read for each signal.

    Waiting for that misses none. Any other call may begin to wait just after a signal came, or the kernel may give that
    to another thread: its handler would run only when the main thread next has something to do.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # The lowest free one, which is this one.
    os.umask(0o022)
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            # A function is as good as ignoring, and execve turns it back into the default for the children.
            signal.signal(number, _ignore)
    signals, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    for soft, hard in ((_SOFT_FILES, _HARD_FILES), (_SOFT_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))
            break
    return signals


def _secret(options: _Options) -> tuple[bytes, SecretFile | None]:
    if options.secret_file:
        file = SecretFile(options.secret_file)
        secret = file.read()
    else:
        file = None
        secret = bytes.fromhex(os.environ.get(options.secret_env, ""))
    if len(secret) < 16:
        sys.exit("agent: no secret of at least 16 bytes; give --secret-file or --secret-hex-env")
    return secret, file


def _listen(options: _Options) -> list[socket.socket]:
    host, _, port = (options.listen or f"0.0.0.0:{_PORT}").rpartition(":")
    listeners = [socket.create_server((host, int(port)), backlog=128)]
    if not options.listen and hasattr(socket, "AF_VSOCK"):
        with contextlib.suppress(OSError):  # A machine without vsock.
            vsock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            vsock.bind((socket.VMADDR_CID_ANY, _PORT))
            vsock.listen(128)
            listeners.append(vsock)
    return listeners


def _protect(proc: int) -> int | None:
    """Keep the agent from the out-of-memory killer, which shall take what the agent runs. None: not allowed here."""
    try:
        score = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
    except OSError:
        return None
    try:
        os.write(score, b"-1000")
    except OSError:
        os.close(score)
        return None
    return score


def _write_port(path: str, port: int) -> None:
    draft = path + ".new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, b"%d\n" % port)
    os.close(descriptor)
    os.replace(draft, path)


def _ignore(number: int, frame: object) -> None:
    del number, frame


def _leave(number: int, frame: object) -> None:
    del number, frame
    sys.exit(0)
