"""Error messages about settings: one line each, with the variable, its value unless it is secret, and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .names import PREFIX, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from .sources import Gathered

_SHOWN = 80


class SettingsRefused(Exception):
    """The environment has invalid values.

    Attributes:
        reasons: One line for each, with the variable, its value and the way out.
    """

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


def shown(value: str) -> str:
    """A value for a message: cut, and on one line."""
    cut = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


def reasons(error: ValidationError, gathered: Gathered, defaults: Mapping[str, object]) -> list[str]:
    """Return one line for each invalid value."""
    return [line for details in error.errors() for line in _lines(details, gathered, defaults)]


def _lines(details: ErrorDetails, gathered: Gathered, defaults: Mapping[str, object]) -> Iterable[str]:
    message = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:
        return [_as_written(line, gathered) for line in message.splitlines()]
    setting = str(details["loc"][0])
    if setting not in gathered.values:  # derived from a setting that has its own line
        return ()
    variable = gathered.origins[setting].variable
    name = variable if setting in SECRETS else f"{variable}={shown(gathered.values[setting])}"
    if details["type"] == "value_error":
        return (f"{name} {message}",)
    return (f"{name} is invalid: {message[0].lower()}{message[1:]}. The default is {_default(defaults[setting])}",)


def _as_written(line: str, gathered: Gathered) -> str:
    """Replace our name at the beginning of a line by the name under which the value was set."""
    for setting, origin in gathered.origins.items():
        own = f"{PREFIX}{setting.upper()}="
        if line.startswith(own):
            return f"{origin.variable}={line.removeprefix(own)}"
    return line


def _default(value: object) -> object:
    return "empty" if value in {None, "", ()} else value
