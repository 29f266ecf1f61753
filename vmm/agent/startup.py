"""Starting the agent from its command line. Everything is opened and imported before the root changes."""

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
from .carrier import Carrier
from .cgroups import Groups
from .files import Files
from .identity import IdentityHolder, SecretFile
from .memory_kills import MemoryKills
from .metrics import Metrics
from .namespaces import Namespaces, pivot
from .nic_settings import SettingsFile
from .outbound import Outbound
from .processes import Processes
from .procfs import read
from .service import Service
from .sessions import Sessions
from .spawn import Spawner
from .spool import Spools
from .terminals import Terminals
from .trees import Trees
from .users import Users
from .volumes import Volumes

_PORT = 1024
_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_SOFT_FILES = 16384
_HARD_FILES = 1024 * 1024
_RESTART_STATUS = 3
"""Exit status that requests a new agent and a sandbox without processes."""


@dataclass(slots=True, kw_only=True)
class _Options:
    root: str = "/"
    listen: str = ""
    port_file: str = ""
    secret_file: str = ""
    secret_env: str = ""
    outputs: str = ""
    users_file: str = "/etc/passwd"
    groups: tuple[str, ...] = _GROUPS
    privileged: bool = True
    isolated: bool = False


_TEXTS = {
    "--root": "root",
    "--listen": "listen",
    "--port-file": "port_file",
    "--secret-file": "secret_file",
    "--secret-hex-env": "secret_env",
    "--outputs": "outputs",
    "--users-file": "users_file",
}
"""The options that are texts, and their attributes."""


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM.

    Options:
        --root DIR: The root directory of commands and paths (default /).
        --listen HOST:PORT: The address to listen on (default 0.0.0.0:1024, and vsock port 1024 if vsock exists).
        --port-file FILE: The file to write the port to once it is open.
        --secret-file FILE: The file with the secret in hex digits; rewritten with each new identity.
        --secret-hex-env NAME: The environment variable with the secret in hex digits, in place of the file.
        --outputs DIR: A directory on the disk for output that does not fit into memory; without it, that is dropped.
        --users-file FILE: The file with the users and their homes (default /etc/passwd).
        --cgroup DIR: The cgroup2 to create groups in, or `none`; by default the usual places are tried.
        --isolate: Run the sandbox in its own namespaces, and reserve processor time and memory for the agent.
        --no-identity-privileges: Apply only the secret of a new identity, and say so; for tests outside a guest.
    """
    options = _parse(arguments)
    signals = _prepare_process()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    random = os.open("/dev/random", os.O_RDWR)
    null = os.open("/dev/null", os.O_RDONLY)
    memory_kills = MemoryKills.open()
    group = Groups.open(options.groups, f"casemate-{os.urandom(4).hex()}")
    # Before the secret is read, since the sandbox's first process starts as a copy of this one.
    namespaces = _isolate(options, proc, group)
    inner, first = (proc, os.getpid()) if namespaces is None else (namespaces.proc, 1)
    secret, secret_file = _secret(options)
    listeners = _listen(options)
    trees = Trees(proc, group)
    spawner = Spawner(trees, proc, _protect(proc), namespaces)
    users = Users(os.fsencode(options.users_file))
    spools = Spools(os.open(options.outputs, os.O_RDONLY | os.O_DIRECTORY)) if options.outputs else None
    processes = Processes(trees, users, spawner, null, memory_kills, spools)
    terminals = Terminals(trees, users, spawner, memory_kills)
    sessions = Sessions(trees, users, spawner, null, memory_kills, spools)
    uplink = None if namespaces is None else namespaces.uplink
    identity = IdentityHolder(secret, secret_file, random, privileged=options.privileged, uplink=uplink)
    # The host's own connections do not count as activity. Those over vsock are in no TCP table.
    own = frozenset(listener.getsockname()[1] for listener in listeners if listener.family == socket.AF_INET)
    sockets = None if namespaces is None else namespaces.sockets
    if namespaces is not None:
        own = frozenset(() if sockets is None else (sockets.port,))
    activity = Activity(inner, first, terminals, sessions, own)
    carrier = Carrier(namespaces)
    outbound = Outbound(sockets, carrier)
    paths = Paths(first=None if namespaces is None else first)
    metrics = Metrics(proc, inner)
    service = Service(
        identity,
        processes,
        terminals,
        sessions,
        Files(),
        metrics,
        activity,
        outbound,
        carrier,
        paths,
        Volumes.open(proc, spawner),
    )
    frames.host_proof(secret, b"", b"")  # The first digest loads libraries, which is impossible after chroot.
    if options.port_file:
        _write_port(options.port_file, listeners[0].getsockname()[1])
    _enter(options.root, namespaces)
    status: object = 0
    try:
        outbound.serve()
        for listener in listeners:
            _thread.start_new_thread(service.serve, (listener,))
        status = _wait(signals, namespaces)
    except SystemExit as request:
        status = request.code
    finally:
        terminals.close_all()
        sessions.close_all()
        processes.close()
        if group:
            group.remove(time.monotonic() + 2.0)
    # Python's normal exit loads a library to unwind threads, which the sandbox's root does not have.
    os._exit(status if isinstance(status, int) else 0)


def _isolate(options: _Options, proc: int, group: Groups | None) -> Namespaces | None:
    if not options.isolated:
        return None
    # By now the kernel has allocated what it needs at boot, and no command has taken memory yet.
    available = next(
        (
            int(line.split()[1]) * 1024
            for line in read(proc, "meminfo").splitlines()
            if line.startswith(b"MemAvailable")
        ),
        0,
    )
    file = SettingsFile(os.path.dirname(options.secret_file) or ".") if options.secret_file else None
    namespaces = Namespaces.make(options.root, group, file)
    if group is not None:
        group.keep_reserves(available)
    return namespaces


def _enter(root: str, namespaces: Namespaces | None) -> None:
    """Change to the root directory of commands and paths."""
    if namespaces is not None:
        pivot(root)
    elif root != "/":
        os.chroot(root)
    os.chdir("/")


def _wait(signals: int, namespaces: Namespaces | None) -> int:
    """Wait for a signal that ends the agent, or for the end of the sandbox's first process (a reboot from inside).

    Returns:
        The exit status.
    """
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    if namespaces is not None:
        poll.register(namespaces.first, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != signals:
                return _RESTART_STATUS
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
            sys.exit(f"agent: {name} is unknown or lacks its value")
        value = rest.pop(0)
        if name == "--cgroup":
            options.groups = () if value == "none" else (value,)
        elif name in _TEXTS:
            setattr(options, _TEXTS[name], value)
        else:
            sys.exit(f"agent: {name} is unknown")
    return options


def _prepare_process() -> int:
    """Set up what children inherit (descriptors, umask, signals, limits); return a descriptor with a byte per signal.

    Polling that descriptor misses no signal. Any other call may start to block just after a signal arrived, or the
    kernel may deliver the signal to another thread; the handler would then run only when the main thread wakes up.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # Gets the lowest free number, which is this one.
    os.umask(0o022)
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            # A handler that does nothing ignores the signal too, and execve resets it to the default for children.
            signal.signal(number, _ignore)
    signals, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
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
        sys.exit(f"agent: secret must be at least 16 bytes, got {len(secret)}; give --secret-file or --secret-hex-env")
    return secret, file


def _listen(options: _Options) -> list[socket.socket]:
    host, _, port = (options.listen or f"0.0.0.0:{_PORT}").rpartition(":")
    listeners = [socket.create_server((host, int(port)), backlog=128)]
    if not options.listen and hasattr(socket, "AF_VSOCK"):
        with contextlib.suppress(OSError):  # The machine has no vsock.
            vsock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            vsock.bind((socket.VMADDR_CID_ANY, _PORT))
            vsock.listen(128)
            listeners.append(vsock)
    return listeners


def _protect(proc: int) -> int | None:
    """Protect the agent from the out-of-memory killer, which shall kill programs of the sandbox instead.

    Returns:
        A descriptor of oom_score_adj; None if the agent may not lower its score.
    """
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
    temporary = path + ".new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, b"%d\n" % port)
    os.close(descriptor)
    os.replace(temporary, path)


def _ignore(number: int, frame: object) -> None:
    del number, frame


def _exit(number: int, frame: object) -> None:
    del number, frame
    sys.exit(0)
