"""The sources of settings: our variables, files that they name, and aliases of other systems."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import checks, sandbox_api, voidrun
from .names import ALIASES, EVERYWHERE, FILE, NOT_SETTINGS, PREFIX, SECRETS
from .refusals import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The variable that a value came from, and the system that the name belongs to; empty for ours."""

    variable: str
    system: str = ""

    def __str__(self) -> str:
        return f"{self.variable} ({self.system})" if self.system else self.variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The values from the environment, not validated yet.

    Attributes:
        values: The values by the name of the setting; unset ones are missing.
        origins: The origin of each value.
        warnings: One line for each variable that is set but not used.
        refusals: One line for each variable that cannot be read, or asks for something that Casemate does not support.
    """

    values: dict[str, str]
    origins: dict[str, Origin]
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]


def gather(environ: Mapping[str, str], settings: Collection[str]) -> Gathered:
    """Collect the values of these settings. Our name takes precedence over a file, a file over other systems' names."""
    values: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    adapted = voidrun.adapt(environ)
    environ = adapted.environ
    warnings = [*_unknown(environ, settings), *adapted.warnings]
    refusals = [*_contradictions(environ), *adapted.refusals]
    for setting in settings:
        found = [(origin, environ[origin.variable]) for origin in _candidates(setting) if _is_set(environ, origin)]
        if not found:
            continue
        (origin, value), *others = found
        warnings += [
            f"{other} is not used because {origin} is set too: remove one of them"
            for other, text in others
            if text != value or other.variable.endswith(FILE)
        ]
        origins[setting] = origin
        if setting in SECRETS and origin.variable.endswith(FILE):
            try:
                values[setting] = _content(Path(value))
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                refusals.append(
                    f"{origin.variable}={shown(value)} must name a readable file with the secret, got: {reason}"
                )
        else:
            values[setting] = value or EVERYWHERE[origin.variable]
    warnings += sandbox_api.turn_on(values, origins)
    host = origins.get("host")
    named = "allowed_hosts" in values
    if host is not None and host.variable in EVERYWHERE and checks.is_wildcard(values["host"]) and not named:
        hosts = voidrun.own_hosts()
        values["allowed_hosts"], origins["allowed_hosts"] = ",".join(hosts), host
        warnings.append(voidrun.everywhere(hosts))
    return Gathered(values=values, origins=origins, warnings=tuple(warnings), refusals=tuple(refusals))


def _candidates(setting: str) -> list[Origin]:
    names = [Origin(variable=PREFIX + setting.upper())]
    names += [Origin(variable=name, system=system) for name, system in ALIASES.get(setting, ())]
    if setting not in SECRETS:
        return names
    return [each for name in names for each in (name, Origin(variable=name.variable + FILE, system=name.system))]


def _is_set(environ: Mapping[str, str], origin: Origin) -> bool:
    return bool(environ.get(origin.variable)) or (origin.variable in EVERYWHERE and origin.variable in environ)


def _content(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not text:
        raise ValueError("it is empty")
    return text


def _unknown(environ: Mapping[str, str], settings: Collection[str]) -> list[str]:
    """Warn of unknown names with our prefix, which are usually typing errors."""
    known = {setting.upper() for setting in settings}
    files = {setting.upper() + FILE for setting in SECRETS}
    lines: list[str] = []
    for variable in sorted(environ):
        name = variable.removeprefix(PREFIX)
        if not variable.startswith(PREFIX) or name in known | files | NOT_SETTINGS:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        lines.append(f"{shown(variable)} is not a setting" + (f": did you mean {PREFIX}{near[0]}?" if near else ""))
    return lines


def _contradictions(environ: Mapping[str, str]) -> list[str]:
    """Refuse values of other systems' variables that would be unsafe to ignore."""
    lines: list[str] = []
    algorithm = environ.get("JWT_ALGORITHM", "")
    if algorithm not in {"", "HS256"}:
        lines.append(
            f"JWT_ALGORITHM={shown(algorithm)} is not supported: tokens signed with a secret are HS256. "
            f"Remove it, or set {PREFIX}JWT_JWKS_URL for tokens signed with a private key"
        )
    return lines
