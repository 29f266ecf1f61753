"""Checks of arguments before anything is sent; each message names the argument, what it must be, and its value."""

from __future__ import annotations

from storage.shown import shown
from vmm.agent import frames
from vmm.errors import InvalidInput

from .values import Command

MAX_ARGUMENT = 128 * 1024 - 1
"""Bytes of one argument or variable: the limit of Linux."""
MAX_ARGUMENTS = 1024 * 1024
"""Bytes of all arguments and variables together."""
MAX_PATH = 4095
MAX_WHOLE_READ = 64 * 1024 * 1024
"""Bytes that one call returns; longer files are read in ranges or streamed."""


def path(value: str, name: str = "path") -> str:
    """Check an absolute path.

    Raises:
        InvalidInput: Relative, empty, too long, or with invalid characters.
    """
    size = len(_encoded(value, name))
    if not value.startswith("/"):
        raise InvalidInput(f"{name} must be an absolute path, got {shown(value)}", hint="Begin it with /")
    if size > MAX_PATH:
        raise InvalidInput(f"{name} must be at most {MAX_PATH} bytes, got {size} in {shown(value)}")
    return value


def count(value: int, name: str, *, minimum: int = 0) -> int:
    """Check a number against its minimum.

    Raises:
        InvalidInput: It is smaller.
    """
    if value < minimum:
        raise InvalidInput(f"{name} must be at least {minimum}, got {shown(value)}")
    return value


def command(value: Command) -> dict[str, object]:
    """Return a command in the agent's form, without its input.

    Raises:
        InvalidInput: Empty, both shell and argv, or beyond the limits of Linux.
    """
    if value.shell is not None and value.argv:
        raise InvalidInput("command must be shell or argv, got both")
    if not (value.shell or "").strip() and not value.argv:
        raise InvalidInput("command must be a shell line or a program with its arguments, got nothing")
    total = 0
    for name, text in [("shell", value.shell or ""), *(("argv", argument) for argument in value.argv)]:
        total += _argument(text, name)
    _environment(value.env, total)
    if len(value.stdin) > frames.MAX_STDIN:
        raise InvalidInput(
            f"stdin must be at most {frames.MAX_STDIN} bytes, got {len(value.stdin)}",
            hint="Write a file and redirect from it",
        )
    arguments: dict[str, object] = {"timeout_ms": count(value.timeout_ms, "timeout_ms")}
    if value.shell:
        arguments["shell"] = value.shell
    else:
        arguments["argv"] = value.argv
    return arguments | execution_context(value.cwd, value.env, value.user)


def text(value: str, name: str) -> str:
    """Check a text for the guest.

    Raises:
        InvalidInput: It has NUL characters, or is not Unicode.
    """
    _encoded(value, name)
    return value


def argument(value: str, name: str) -> str:
    """Check a text that becomes one argument of a program.

    Raises:
        InvalidInput: It is longer than Linux allows.
    """
    _argument(value, name)
    return value


def typed(data: bytes) -> bytes:
    """Check input for a process or terminal.

    Raises:
        InvalidInput: It is too long for one call.
    """
    if len(data) > frames.MAX_INPUT:
        raise InvalidInput(f"data must be at most {frames.MAX_INPUT} bytes, got {len(data)}", hint="Send it in parts")
    return data


def signal_number(value: int) -> int:
    """Check a signal's number.

    Raises:
        InvalidInput: There is no such signal.
    """
    if not 1 <= value <= 64:
        raise InvalidInput(f"signal must be 1 to 64, got {shown(value)}", hint="15 asks to end, 9 kills")
    return value


def size(cols: int, rows: int) -> None:
    """Check a terminal's size.

    Raises:
        InvalidInput: It is not between 1 and 1000.
    """
    if not (1 <= cols <= 1000 and 1 <= rows <= 1000):
        raise InvalidInput(f"size must be 1x1 to 1000x1000, got {cols}x{rows}")


def execution_context(cwd: str, env: dict[str, str], user: str) -> dict[str, object]:
    """Return where and as which user a program runs, in the agent's form.

    Raises:
        InvalidInput: A relative directory, or an invalid variable name.
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
            raise InvalidInput(f"env must have variable names that are not empty and without '=', got {shown(name)}")
        total += _argument(f"{name}={text}", f"env {shown(name)}")
    if total > MAX_ARGUMENTS:
        raise InvalidInput(
            f"command must be at most {MAX_ARGUMENTS} bytes of arguments and variables, got {total}",
            hint="Write the data to a file and name the file",
        )


def _argument(text: str, name: str) -> int:
    size = len(text) if text.isascii() else len(_encoded(text, name))
    if size > MAX_ARGUMENT:
        raise InvalidInput(
            f"{name} must be at most {MAX_ARGUMENT} bytes, got {size}",
            hint="Write it to a file and run or name the file, or give it as stdin",
        )
    _encoded(text, name)
    return size


def _encoded(text: str, name: str) -> bytes:
    if "\0" in text:
        raise InvalidInput(f"{name} must be without NUL characters, got {shown(text)}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} must be valid Unicode text, got {shown(text)}") from error
