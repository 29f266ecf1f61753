"""VoidBox's layered configuration: `config.yaml` of the host and of the user, VOIDBOX_* variables, and options.

It is about the commands for specs alone. The server's settings are CASEMATE_* variables; the two share no name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from runs.specs.checking import checked, placed
from runs.specs.document import read, tree
from runs.specs.faults import SpecRefused
from runs.specs.model import SpecModel
from runs.specs.rules import Problem

from .console import CliError

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST_FILE = Path("/etc/voidbox/config.yaml")

Level = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[str, Level] = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "off": "error",
}
_ON = {"1", "true"}
_NO_EFFECT = {
    "daemon_url": "runs are not kept by a daemon yet; casemate run takes the server of --url or CASEMATE_URL",
    "state_dir": "everything is in the server's CASEMATE_DATA",
    "log_dir": "logs go to standard error",
    "snapshot_dir": "snapshots are in the server's CASEMATE_DATA",
    "kernel": "every machine has Casemate's own kernel",
    "initramfs": "every machine has Casemate's own kernel",
}
TEMPLATE = """\
# Configuration of voidbox and of casemate's commands for specs. Options and VOIDBOX_* variables win over it.
# The server's settings are CASEMATE_* variables: casemate config show.
#
# log_level: info        # debug, info, warning or error
# banner: true
"""


def level_of(text: str, *, origin: str) -> Level:
    """Return the level of a filter such as `info` or `warn,some_module=debug`, whose modules mean nothing here.

    Raises:
        CliError: It names no level.
    """
    words = [word.strip().lower() for word in text.split(",") if word.strip() and "=" not in word]
    if any(word not in _LEVELS for word in words):
        raise CliError(f"{origin}: {text[:80]!r} is not a log level: use debug, info, warning or error")
    return _LEVELS[words[-1]] if words else "info"


def _level(value: str) -> str:
    try:
        return level_of(value, origin="log_level")
    except CliError:
        raise ValueError(f"must be debug, info, warning or error, got {value[:80]!r}") from None


class PathsSection(SpecModel):
    """Where VoidBox keeps things."""

    state_dir: str | None = None
    log_dir: str | None = None
    snapshot_dir: str | None = None
    kernel: str | None = None
    initramfs: str | None = None


class ConfigFile(SpecModel):
    """One file."""

    log_level: Annotated[str, AfterValidator(_level)] | None = None
    daemon_url: str | None = None
    banner: bool | None = None
    paths: PathsSection = Field(default_factory=PathsSection)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """All layers together.

    Attributes:
        log_level: The lowest level that is logged.
        banner: Whether `run` prints a banner on a terminal.
        files: The files that were read, the strongest last.
        warnings: What is set and has no effect, with its place.
    """

    log_level: Level
    banner: bool
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def user_file(environ: Mapping[str, str]) -> Path:
    """Return where the user's file is, if there is one."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "voidbox" / "config.yaml"


def merged(environ: Mapping[str, str], *, log_level: str = "", no_banner: bool = False) -> ClientConfig:
    """Read all layers; the calling thread waits for the disk.

    Args:
        environ: The environment.
        log_level: What --log-level says; may be empty.
        no_banner: Whether --no-banner was given.

    Raises:
        SpecRefused: A file cannot be read or has a fault; a file that does not exist has none, unless it was named.
        CliError: A variable or an option has a wrong value.
    """
    level, banner = "info", True
    files: list[Path] = []
    warnings: list[str] = []
    named = environ.get("VOIDBOX_CONFIG", "")
    for path in (HOST_FILE, user_file(environ), *([Path(named)] if named else [])):
        if str(path) != named and not path.exists():
            continue
        found, told = _read(path)
        level = found.log_level or level
        banner = banner if found.banner is None else found.banner
        files.append(path)
        warnings += told
    level = environ.get("VOIDBOX_LOG_LEVEL") or level
    if environ.get("VOIDBOX_NO_BANNER", "").lower() in _ON or no_banner:
        banner = False
    origin = "--log-level" if log_level else "VOIDBOX_LOG_LEVEL"
    return ClientConfig(
        log_level=level_of(log_level or level, origin=origin),
        banner=banner,
        files=tuple(files),
        warnings=tuple(warnings),
    )


def _read(path: Path) -> tuple[ConfigFile, list[str]]:
    root, faults = tree(read(path), file=str(path))
    if root.value is None:
        return ConfigFile(), []
    found, wrong = checked(root, ConfigFile)
    if found is None or faults:
        raise SpecRefused(str(path), [*faults, *wrong])
    problems = [
        Problem((*at, name), f"has no effect: {why}", name=True)
        for name, why in _NO_EFFECT.items()
        for at, section in (((), found), (("paths",), found.paths))
        if getattr(section, name, None) is not None
    ]
    return found, [fault.at(str(path)) for fault in placed(root, problems)]
