"""Sandbox-api's own variables: they turn its API on, and a list of commands that holds nothing back is not used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .names import ALIASES, PREFIX, SANDBOX_API
from .refusals import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .sources import Origin

SWITCH = "sandbox_api"
_COMMANDS = "sandbox_api_commands"
_KEYS = "api_keys"
_MIB = 1024 * 1024
_BYTES = {"b": 1, "k": 1024, "m": _MIB, "g": 1024 * _MIB}
_SIZE = re.compile(r"(\d{1,15})\s*([bkmg]?)b?", re.IGNORECASE)

INTERPRETERS = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "python", "python3", "pip", "pip3", "node", "tsx", "npx"}
    | {"perl", "ruby", "lua", "php", "awk", "gawk", "mawk", "sed", "git", "tar", "find", "vim", "vi", "ssh", "make"}
)
"""Programs that run any other program, or code, that their arguments or files name."""


def turn_on(values: dict[str, str], origins: dict[str, Origin]) -> list[str]:
    """Turn the API on if a variable of its own asks for it, and leave out a list of commands that is none.

    Returns:
        One line for each value that is left out.
    """
    names = {name for setting, names in ALIASES.items() if _own(setting) for name, _ in names}
    asking = next((origin for origin in origins.values() if origin.variable in names), None)
    if SWITCH not in values and asking is not None:
        values[SWITCH], origins[SWITCH] = "true", asking
    return _unused_commands(values, origins)


def memory(value: object) -> object:
    """Convert a size as Docker writes it, such as `256m`, to MiB; a small plain number is MiB already.

    Raises:
        ValueError: It is no size.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"must be a size such as 512m, 1g or 512 (MiB), got {shown(value)}")
    number, unit = int(found[1]), found[2].lower()
    if not unit:
        return number // _MIB if number >= _MIB else number
    return number * _BYTES[unit] // _MIB


def _own(setting: str) -> bool:
    return setting.startswith(SWITCH) or setting == _KEYS


def _unused_commands(values: dict[str, str], origins: Mapping[str, Origin]) -> list[str]:
    """Leave out sandbox-api's list of commands if it has interpreters, which would run whatever is not in it."""
    if _COMMANDS not in values or origins[_COMMANDS].system != SANDBOX_API:
        return []
    named = {item.strip().lower() for item in values[_COMMANDS].split(",")}
    found = sorted(named & INTERPRETERS)
    if not found:
        return []
    del values[_COMMANDS]
    return [
        f"ALLOWED_COMMANDS is not used because {', '.join(found)} would run any command that it leaves out: remove "
        f"{'it' if len(found) == 1 else 'them'}, or set {PREFIX}SANDBOX_API_COMMANDS to use such a list all the same"
    ]
