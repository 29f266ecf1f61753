"""Files of variables, such as `.env`: read, and put below the environment, which wins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .refusals import SettingsRefused, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MOST_BYTES = 1024 * 1024
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def with_env_file(environ: Mapping[str, str], file: Path | None) -> Mapping[str, str]:
    """Return an environment with the variables of a file, except those that it has itself.

    Args:
        environ: The environment.
        file: The file; None for none.

    Raises:
        SettingsRefused: The file cannot be read, or a line of it is no variable; it has one line for each.
    """
    return environ if file is None else {**read_env_file(file), **environ}


def read_env_file(file: Path) -> dict[str, str]:
    """Read a file of lines such as `NAME=value`. Quotes are taken off, `#` begins a comment, nothing is substituted.

    Raises:
        SettingsRefused: As `with_env_file`.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise SettingsRefused((f"--env-file {shown(str(file))} cannot be read: {error.strerror}",)) from None
    except UnicodeDecodeError:
        raise SettingsRefused((f"--env-file {shown(str(file))} is not UTF-8 text",)) from None
    if len(data) > _MOST_BYTES:
        raise SettingsRefused((f"--env-file {shown(str(file))} must have at most {_MOST_BYTES} bytes",))
    values: dict[str, str] = {}
    refusals: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        value = None if found is None else _value(found[2])
        if found is None or value is None:
            # The line may have a secret, so it is not repeated.
            refusals.append(f"{shown(str(file))}, line {number}: write NAME=value, with both quotes or none")
        else:
            values[found[1]] = value
    if refusals:
        raise SettingsRefused(tuple(refusals))
    return values


def _value(text: str) -> str | None:
    """Take off quotes and a comment; None if a quote is not closed."""
    if text.startswith('"'):
        found = _DOUBLE.fullmatch(text)
        return None if found is None else re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[1]), found[1])
    if text.startswith("'"):
        found = _SINGLE.fullmatch(text)
        return None if found is None else found[1]
    return _COMMENT.sub("", text).strip()
