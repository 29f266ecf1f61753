"""From a request to what execve takes: program, arguments, environment, directory and user, checked inside the root."""

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
"""Shells that take the option for a login shell together with a line to run."""
_ENV = b"/usr/bin/env"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run.

    Attributes:
        label: The command as people wrote it.
        cwd_given: Whether `cwd` was asked for, rather than being the user's home.
    """

    label: str
    path: bytes
    argv: list[bytes]
    env: dict[bytes, bytes]
    cwd: bytes
    cwd_given: bool
    user: User


def command_program(arguments: Arguments, users: Users) -> Program:
    """The program of a command: `shell` or `argv`, with `cwd`, `env` and `user`.

    Raises:
        RefusalError: Empty command, unknown user, no such program.
    """
    user = users.find(arguments.raw("user", ""))
    env = environment(user, arguments.pairs("env"))
    argv = arguments.texts("argv")
    line = arguments.raw("shell", "")
    if bool(line.strip()) == bool(argv):
        raise invalid("command: empty; give a shell line or arguments")
    if line:
        path = _first_executable(_SHELLS)
        return _program(line.decode(), path, [path.rpartition(b"/")[2], b"-c", line], env, arguments, user)
    if not argv[0]:
        raise invalid("argv: the program's name is empty")
    path = _find(argv[0], env.get(b"PATH", _PATH))
    return _program(b" ".join(map(_quoted, argv)).decode(), path, argv, env, arguments, user)


def terminal_program(arguments: Arguments, users: Users) -> Program:
    """The program of a terminal: a shell line, or the user's login shell.

    Raises:
        RefusalError: Unknown user, no shell in the image.
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


def environment(user: User, added: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """A guest program's environment: the defaults, and over them what was asked for."""
    for name in added:
        if not name or b"=" in name:
            raise invalid(f"env: {shown(name)!r} is no name of a variable")
    return {
        b"PATH": _PATH,
        b"HOME": user.home,
        b"USER": user.name,
        b"LOGNAME": user.name,
        b"SHELL": user.shell,
        b"LANG": b"C.UTF-8",
        b"TERM": b"dumb",
        **added,
    }


def _login(shell: bytes, asked: dict[bytes, bytes]) -> list[bytes]:
    """Arguments of a login shell. What its profile makes of variables that were asked for does not last."""
    name = shell.rpartition(b"/")[2]
    if not asked or name not in _LOGIN_SHELLS or not _executable(_ENV):
        return [b"-" + name]
    pairs = [variable + b"=" + value for variable, value in asked.items()]
    return [name, b"-l", b"-c", b'exec "$@"', name, _ENV, b"--", *pairs, shell]


def _program(
    label: str, path: bytes, argv: list[bytes], env: dict[bytes, bytes], arguments: Arguments, user: User
) -> Program:
    given = bool(arguments.text("cwd", ""))
    cwd = arguments.path("cwd") if given else user.home
    return Program(label=label, path=path, argv=argv, env=env, cwd=cwd, cwd_given=given, user=user)


def _find(name: bytes, search: bytes) -> bytes:
    if b"/" in name:
        return name  # Relative to the working directory, or absolute: execve itself says what is wrong with it.
    for directory in search.split(b":"):
        candidate = (directory or b".") + b"/" + name
        if _executable(candidate):
            return candidate
    raise invalid(f"argv: no program {shown(name)!r} on the PATH {shown(search)}")


def _first_executable(candidates: tuple[bytes, ...]) -> bytes:
    for candidate in candidates:
        if _executable(candidate):
            return candidate
    raise invalid(f"command: none of {', '.join(map(shown, candidates))} is in the sandbox; give argv")


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
