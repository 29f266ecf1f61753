"""What comes from a server and from the person at the keyboard, as values that a command can rely on."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Any, cast

from storage.shown import shown

from .console import CliError

Object = dict[str, Any]

NONE = "none"
"""What stands for no limit on the command line."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPAN = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHOWN = 80
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def as_object(value: object) -> Object:
    """A JSON object of a server's.

    Raises:
        CliError: It is something else.
    """
    if not isinstance(value, dict):
        raise CliError(f"The server answered {shown(value)} where an object belongs: is it of another version?")
    return cast("Object", value)


def as_objects(value: object) -> list[Object]:
    """A JSON array of objects.

    Raises:
        CliError: It is something else.
    """
    if not isinstance(value, list):
        raise CliError(f"The server answered {shown(value)} where a list belongs: is it of another version?")
    return [as_object(item) for item in cast("list[object]", value)]


def cell(value: object) -> str:
    """A value of a server's in a table; `-` where there is none."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(cell(item) for item in cast("list[object]", value)) or "-"
        case dict():
            return ",".join(f"{name}={cell(item)}" for name, item in cast("Object", value).items()) or "-"
        case _:
            return str(value)


def moment(value: object) -> str:
    """A time of a server's, RFC 3339 or epoch milliseconds, to the second; `-` where there is none."""
    try:
        if isinstance(value, int):
            when = datetime.fromtimestamp(value / 1000, UTC)
        elif isinstance(value, str) and value:
            when = datetime.fromisoformat(value).astimezone(UTC)
        else:
            return "-"
    except (ValueError, OverflowError, OSError):
        return cell(value)
    return when.strftime("%Y-%m-%d %H:%M:%S") if when.year > 1 else "-"


def amount(count: object) -> str:
    """Bytes for people; `-` where the number is missing."""
    if not isinstance(count, int | float):
        return "-"
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def check_ref(ref: str, what: str = "sandbox") -> str:
    """An id or name that may stand in a path.

    Raises:
        CliError: It can be none.
    """
    if not _NAME.fullmatch(ref):
        raise CliError(f"{ref[:_SHOWN]!r} can be no {what}: give its id or name, of letters, digits, dots and dashes")
    return ref


def status_of(sandbox: Object) -> str:
    """A sandbox's status in a table: on the wire, one that sleeps or is unresponsive bears VoidRun's word for it."""
    if sandbox.get("unresponsive"):
        return "unresponsive"
    return "asleep" if sandbox.get("asleepSince") else cell(sandbox.get("status"))


def parse_pairs(pairs: list[str] | None, option: str) -> dict[str, str]:
    """`K=V` of a repeatable option.

    Raises:
        CliError: One is no pair.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise CliError(f"{option} {pair[:_SHOWN]!r} is no pair: write {option} name=value")
        found[name] = value
    return found


def parse_environment(pairs: list[str] | None) -> dict[str, str]:
    """`K=V` of --env; a bare `K` hands on the variable of this process.

    Raises:
        CliError: One is no variable, or is not set here.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise CliError(f"--env {name[:_SHOWN]!r} is no variable's name: write --env NAME=value")
        if not separator:
            if name not in os.environ:
                raise CliError(f"--env {name}: it is not set here: write --env {name}=value")
            value = os.environ[name]
        found[name] = value
    return found


def parse_span(text: str, option: str) -> int:
    """Seconds of a span such as `90s`, `15m`, `2h`, `30d`, `1w`.

    Raises:
        CliError: It is none.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None or not int(found[1]):
        raise CliError(f"{option} {text[:_SHOWN]!r} is no span of time: write such as 90s, 15m, 2h, 30d, 1w")
    return int(found[1]) * _SECONDS[found[2]]


def parse_limit(text: str, option: str) -> int:
    """Seconds of a span as `parse_span` has it; 0 for the word `none`.

    Raises:
        CliError: It is neither.
    """
    if text.strip() == NONE:
        return 0
    found = _SPAN.fullmatch(text.strip())
    if found is None or not int(found[1]):
        raise CliError(f"{option} {text[:_SHOWN]!r} is no span of time: write such as 90s, 15m, 2h, 7d, or {NONE}")
    return int(found[1]) * _SECONDS[found[2]]
