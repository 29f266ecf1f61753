"""Validation and formatting of values from the server and from the command line."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Any, cast

from storage.shown import shown

from .console import CliError

Object = dict[str, Any]

NONE = "none"
"""The word for no limit on the command line."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHOWN = 80
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def as_object(value: object) -> Object:
    """Return a JSON value from the server as an object.

    Raises:
        CliError: The value is not an object.
    """
    if not isinstance(value, dict):
        raise CliError(
            f"The server answered {shown(value)} instead of a JSON object: does it run another version of Casemate?"
        )
    return cast("Object", value)


def as_objects(value: object) -> list[Object]:
    """Return a JSON value from the server as a list of objects.

    Raises:
        CliError: The value is not a list of objects.
    """
    if not isinstance(value, list):
        raise CliError(
            f"The server answered {shown(value)} instead of a JSON list: does it run another version of Casemate?"
        )
    return [as_object(item) for item in cast("list[object]", value)]


def cell(value: object) -> str:
    """Format a value from the server for a table; `-` if it is empty."""
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
    """Format a time from the server, RFC 3339 or epoch milliseconds, to the second; `-` if there is none."""
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
    """Format a number of bytes with a unit; `-` if it is missing."""
    if not isinstance(count, int | float):
        return "-"
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def check_ref(ref: str, what: str = "sandbox") -> str:
    """Return an id or name that is safe in a URL path.

    Raises:
        CliError: The text is not a valid id or name.
    """
    if not _NAME.fullmatch(ref):
        raise CliError(
            f"{ref[:_SHOWN]!r} is not a valid {what}: give an id or name of letters, digits, '.', '_' and '-'"
        )
    return ref


def status_of(sandbox: Object) -> str:
    """Return a sandbox's status for display; on the wire, sleeping and unresponsive ones have VoidRun's status."""
    if sandbox.get("unresponsive"):
        return "unresponsive"
    return "asleep" if sandbox.get("asleepSince") else cell(sandbox.get("status"))


def parse_pairs(pairs: list[str] | None, option: str) -> dict[str, str]:
    """Parse the `K=V` pairs of a repeatable option.

    Raises:
        CliError: A value is not a pair.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise CliError(f"{option} must be name=value, got {pair[:_SHOWN]!r}")
        found[name] = value
    return found


def parse_environment(pairs: list[str] | None) -> dict[str, str]:
    """Parse the `K=V` pairs of --env; a bare `K` takes its value from this process's environment.

    Raises:
        CliError: A name is not a variable name, or a bare one is not set.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise CliError(f"--env: {name[:_SHOWN]!r} is not a valid variable name: write --env NAME=value")
        if not separator:
            if name not in os.environ:
                raise CliError(f"--env: {name} is not set in the local environment: write --env {name}=value")
            value = os.environ[name]
        found[name] = value
    return found


def parse_duration(text: str, option: str) -> int:
    """Parse a duration such as `90s`, `15m`, `2h`, `30d` or `1w` into seconds.

    Raises:
        CliError: The text is not a duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or not int(found[1]):
        raise CliError(f"{option} must be a duration such as 90s, 15m, 2h, 30d or 1w, got {text[:_SHOWN]!r}")
    return int(found[1]) * _SECONDS[found[2]]


def parse_limit(text: str, option: str) -> int:
    """Parse a duration, as `parse_duration` does, or `none`, which means 0.

    Raises:
        CliError: The text is neither.
    """
    if text.strip() == NONE:
        return 0
    found = _DURATION.fullmatch(text.strip())
    if found is None or not int(found[1]):
        raise CliError(f"{option} must be a duration such as 90s, 15m, 2h, 7d, or {NONE}, got {text[:_SHOWN]!r}")
    return int(found[1]) * _SECONDS[found[2]]
