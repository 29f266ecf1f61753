"""Turning a request into what execve takes: program, arguments, environment, directory and user, found in the root."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from .arguments import Arguments
from .refusals import invalid, shown
from .users import User, Users

_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELLS = (b"/bin/bash", b"/bin/sh")
_LOGIN_SHELLS = frozenset({b"bash", b"dash", b"sh", b"zsh"})
"""Shells that accept -l together with -c."""
_SESSION_SHELLS = (b"bash", b"sh", b"dash")
_ENV = b"/usr/bin/env"
_ENVIRONMENT = b"/etc/environment"
_MAX_ENVIRONMENT = 64 * 1024
_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to run.

    Attributes:
        label: The command as the user wrote it.
        cwd_given: Whether the request named `cwd`; otherwise it is the user's home.
    """

    label: str
    path: bytes
    argv: list[bytes]
    env: dict[bytes, bytes]
    cwd: bytes
    cwd_given: bool
    user: User


def command_program(arguments: Arguments, users: Users) -> Program:
    """Return the program of a command: `shell` or `argv`, with `cwd`, `env` and `user`.

    Raises:
        RefusalError: The command is empty, or the user or the program does not exist.
    """
    user = users.find(arguments.raw("user", ""))
    env = environment(user, arguments.pairs("env"))
    argv = arguments.texts("argv")
    line = arguments.raw("shell", "")
    if bool(line.strip()) == bool(argv):
        raise invalid(f"command must be a shell line or argv, got {'both' if argv else 'neither'}")
    if line:
        path = _first_executable(_SHELLS)
        return _program(line.decode(), path, [path.rpartition(b"/")[2], b"-c", line], env, arguments, user)
    if not argv[0]:
        raise invalid("argv must begin with a program, got an empty name")
    path = _find(argv[0], env.get(b"PATH", _PATH))
    return _program(b" ".join(map(_quoted, argv)).decode(), path, argv, env, arguments, user)


def terminal_program(arguments: Arguments, users: Users) -> Program:
    """Return the program of a terminal: a shell line, or the user's login shell.

    Raises:
        RefusalError: The user does not exist, or the image has no shell.
    """
    user = users.find(arguments.raw("user", ""))
    env = environment(user, {b"TERM": b"xterm-256color", **arguments.pairs("env")})
    line = arguments.raw("command", "")
    if line.strip():
        path = _first_executable(_SHELLS)
        return _program(line.decode(), path, [path.rpartition(b"/")[2], b"-c", line], env, arguments, user)
    path = _first_executable((user.shell, *_SHELLS))
    argv = _login(path, arguments.pairs("env"))
    return _program(path.decode("utf-8", "replace"), path, argv, env, arguments, user)


def session_program(arguments: Arguments, users: Users) -> Program:
    """Return the shell of a session, which is interactive and reads its commands from standard input.

    An interactive shell survives syntax errors, and an interrupt ends the whole command at once. It reads no files of
    its own and edits no lines, as nobody types.

    Raises:
        RefusalError: The user does not exist, or the shell is unknown or not in the image.
    """
    user = users.find(arguments.raw("user", ""))
    env = environment(user, {b"PAGER": b"cat", **arguments.pairs("env")})
    name = arguments.raw("shell", "")
    if name.rpartition(b"/")[2] not in {b"", *_SESSION_SHELLS}:
        known = b", ".join(_SESSION_SHELLS)
        raise invalid(f"shell must be {shown(known)}, or the path of one of these, got {shown(name)!r}")
    path = _find(name, env.get(b"PATH", _PATH)) if name else _first_executable(_SHELLS)
    # In some images sh is bash under another name, and would edit lines.
    options = [b"--norc", b"--noediting"] if is_bash(path) else []
    argv = [path.rpartition(b"/")[2], *options, b"-i", b"-s"]
    return _program(path.decode("utf-8", "replace"), path, argv, env, arguments, user)


def is_bash(path: bytes) -> bool:
    """Return whether a shell's program is bash, under any name."""
    return os.path.realpath(path).rpartition(b"/")[2] == b"bash"


def environment(user: User, requested: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the environment of a program: the defaults, those of /etc/environment, and the requested variables."""
    for name in requested:
        if not name or b"=" in name:
            raise invalid(f"env must have variable names that are not empty and without '=', got {shown(name)!r}")
    return {
        b"PATH": _PATH,
        b"HOME": user.home,
        b"USER": user.name,
        b"LOGNAME": user.name,
        b"SHELL": user.shell,
        b"LANG": b"C.UTF-8",
        b"TERM": b"dumb",
        **_system_environment(),
        **requested,
    }


def _system_environment() -> dict[bytes, bytes]:
    """Read /etc/environment as pam_env(8) does; what is no assignment there is left out."""
    try:
        descriptor = os.open(_ENVIRONMENT, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        text = os.read(descriptor, _MAX_ENVIRONMENT)
    except OSError:
        return {}
    finally:
        os.close(descriptor)
    variables: dict[bytes, bytes] = {}
    for line in text.splitlines():
        name, assigned, value = line.strip().removeprefix(b"export ").partition(b"=")
        if assigned and _NAME.issuperset(name) and name and b"\0" not in value:
            quoted = len(value) > 1 and value[:1] == value[-1:] and value[:1] in {b'"', b"'"}
            variables[name] = value[1:-1] if quoted else value
    return variables


def _login(shell: bytes, requested: dict[bytes, bytes]) -> list[bytes]:
    """Return the arguments of a login shell. Requested variables override what the shell's profile sets."""
    name = shell.rpartition(b"/")[2]
    if not requested or name not in _LOGIN_SHELLS or not _executable(_ENV):
        return [b"-" + name]
    pairs = [variable + b"=" + value for variable, value in requested.items()]
    return [name, b"-l", b"-c", b'exec "$@"', name, _ENV, b"--", *pairs, shell]


def _program(
    label: str, path: bytes, argv: list[bytes], env: dict[bytes, bytes], arguments: Arguments, user: User
) -> Program:
    given = bool(arguments.text("cwd", ""))
    cwd = arguments.path("cwd") if given else user.home
    return Program(label=label, path=path, argv=argv, env=env, cwd=cwd, cwd_given=given, user=user)


def _find(name: bytes, search: bytes) -> bytes:
    if b"/" in name:
        return name  # Relative to the working directory, or absolute: execve itself reports errors.
    for directory in search.split(b":"):
        candidate = (directory or b".") + b"/" + name
        if _executable(candidate):
            return candidate
    raise invalid(f"argv: program {shown(name)!r} is not on the PATH {shown(search)}")


def _first_executable(candidates: tuple[bytes, ...]) -> bytes:
    for candidate in candidates:
        if _executable(candidate):
            return candidate
    raise invalid(f"command: no shell in the sandbox ({', '.join(map(shown, candidates))}); give argv")


def _executable(path: bytes) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and mode & 0o111 != 0


def _quoted(argument: bytes) -> bytes:
    if argument and _PLAIN.issuperset(argument):
        return argument
    return b"'" + argument.replace(b"'", b"'\"'\"'") + b"'"
