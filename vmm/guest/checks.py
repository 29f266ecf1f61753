"""What the host's end refuses before anything is sent: each message names the argument, its value and the way out."""

from __future__ import annotations

from storage.shown import shown
from vmm.agent import frames
from vmm.errors import InvalidInput

from .values import Command

MAX_ARGUMENT = 128 * 1024 - 1
"""Bytes of one argument or variable: Linux takes no longer ones."""
MAX_ARGUMENTS = 1024 * 1024
"""Bytes of all arguments and variables together."""
MAX_PATH = 4095
MAX_WHOLE_READ = 64 * 1024 * 1024
"""Bytes that come back in one piece; longer files are read by ranges or streamed."""


def path(value: str, name: str = "path") -> str:
    """An absolute path, unchanged.

    Raises:
        InvalidInput: Relative, empty, too long, or with characters that no path has.
    """
    size = len(_encoded(value, name))
    if not value.startswith("/"):
        raise InvalidInput(f"{name}: {shown(value)} is not absolute", hint="Begin it with /")
    if size > MAX_PATH:
        raise InvalidInput(f"{name}: {shown(value)} has {size} bytes, the longest path has {MAX_PATH}")
    return value


def count(value: int, name: str, *, least: int = 0) -> int:
    """A number that may not fall below `least`, unchanged.

    Raises:
        InvalidInput: It does.
    """
    if value < least:
        raise InvalidInput(f"{name}: {value} is below {least}")
    return value


def command(value: Command) -> dict[str, object]:
    """A command as the agent takes it, without its input.

    Raises:
        InvalidInput: Empty, both shell and argv, or beyond what Linux hands to a program.
    """
    if value.shell is not None and value.argv:
        raise InvalidInput("command: shell and argv exclude each other", hint="Give one of them")
    if not (value.shell or "").strip() and not value.argv:
        raise InvalidInput("command: empty", hint="Give a shell line or a program with its arguments")
    total = 0
    for name, text in [("shell", value.shell or ""), *(("argv", argument) for argument in value.argv)]:
        total += _argument(text, name)
    _environment(value.env, total)
    if len(value.stdin) > frames.MAX_STDIN:
        raise InvalidInput(
            f"stdin: {len(value.stdin)} bytes, at most {frames.MAX_STDIN} go along with a command",
            hint="Write a file and redirect from it",
        )
    arguments: dict[str, object] = {"timeout_ms": count(value.timeout_ms, "timeout_ms")}
    if value.shell:
        arguments["shell"] = value.shell
    else:
        arguments["argv"] = value.argv
    return arguments | surroundings(value.cwd, value.env, value.user)


def text(value: str, name: str) -> str:
    """Text that goes to the guest, unchanged.

    Raises:
        InvalidInput: With NUL characters, or not Unicode.
    """
    _encoded(value, name)
    return value


def argument(value: str, name: str) -> str:
    """Text that becomes one argument of a program, unchanged.

    Raises:
        InvalidInput: Longer than Linux takes.
    """
    _argument(value, name)
    return value


def typed(data: bytes) -> bytes:
    """Input for a process or terminal, unchanged.

    Raises:
        InvalidInput: Too much at once.
    """
    if len(data) > frames.MAX_INPUT:
        raise InvalidInput(f"data: {len(data)} bytes, at most {frames.MAX_INPUT} at once", hint="Send it in parts")
    return data


def signal_number(value: int) -> int:
    """A signal's number, unchanged.

    Raises:
        InvalidInput: There is no such signal.
    """
    if not 1 <= value <= 64:
        raise InvalidInput(f"signal: {value} is not between 1 and 64", hint="15 asks to end, 9 kills")
    return value


def size(cols: int, rows: int) -> None:
    """A terminal's size.

    Raises:
        InvalidInput: Not between 1 and 1000.
    """
    if not (1 <= cols <= 1000 and 1 <= rows <= 1000):
        raise InvalidInput(f"size: {cols}x{rows} is not between 1x1 and 1000x1000")


def surroundings(cwd: str, env: dict[str, str], user: str) -> dict[str, object]:
    """Where and as whom a program runs, as the agent takes it.

    Raises:
        InvalidInput: A relative directory, or a name that no variable can have.
    """
    arguments: dict[str, object] = {}
    if cwd:
        arguments["cwd"] = path(cwd, "cwd")
    if env:
        _environment(env, 0)
        arguments["env"] = env
    if user:
        _encoded(user, "user")
        arguments["user"] = user
    return arguments


def _environment(env: dict[str, str], total: int) -> None:
    for name, text in env.items():
        if not name or "=" in name:
            raise InvalidInput(f"env: {shown(name)} is no name of a variable")
        total += _argument(f"{name}={text}", f"env {shown(name)}")
    if total > MAX_ARGUMENTS:
        raise InvalidInput(
            f"command: {total} bytes of arguments and variables, at most {MAX_ARGUMENTS} are possible",
            hint="Write the data to a file and name the file",
        )


def _argument(text: str, name: str) -> int:
    size = len(text) if text.isascii() else len(_encoded(text, name))
    if size > MAX_ARGUMENT:
        raise InvalidInput(
            f"{name}: {size} bytes, the longest argument has {MAX_ARGUMENT}",
            hint="Write it to a file and run or name the file, or give it as stdin",
        )
    _encoded(text, name)
    return size


def _encoded(text: str, name: str) -> bytes:
    if "\0" in text:
        raise InvalidInput(f"{name}: {shown(text)} contains a NUL character")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name}: {shown(text)} is not valid Unicode text") from error
