"""Checks that the lock files pin what pyproject.toml and requirements.in ask for, each package with its hashes.

    scripts/check_locks.py [DIRECTORY]    default: the project

Exits with 1 and one line per problem; `scripts/lock` solves them.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_LOCKS = {"requirements.lock": (), "requirements-otel.lock": ("otel",), "requirements-dev.lock": ("dev",)}
"""The extras of the project that each lock file installs."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A package in a lock file.

    Attributes:
        requirement: What the lock file asks for, such as `anyio==4.16.0`.
        hashed: Whether at least one hash follows.
    """

    requirement: Requirement
    hashed: bool

    @property
    def version(self) -> str:
        """The one version that is pinned; empty if the line allows several."""
        specifiers = list(self.requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==" or "*" in specifiers[0].version:
            return ""
        return specifiers[0].version


def requested(directory: Path, extras: tuple[str, ...]) -> Iterator[Requirement]:
    """Yield the direct requirements of the project with these extras.

    Args:
        directory: Holds pyproject.toml and requirements.in.
        extras: Of the project; those that they include, as `casemate[otel]` does, follow.
    """
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    for line in (directory / "requirements.in").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield Requirement(line)
    waiting = [*project["dependencies"]]
    for extra in extras:
        waiting += project["optional-dependencies"][extra]
    while waiting:
        requirement = Requirement(waiting.pop())
        if canonicalize_name(requirement.name) != canonicalize_name(project["name"]):
            yield requirement
            continue
        for extra in requirement.extras:
            waiting += project["optional-dependencies"][extra]


def pins(lock: Path) -> dict[str, Pin]:
    """Read a lock file: its packages by their canonical names."""
    found: dict[str, Pin] = {}
    for entry in lock.read_text().replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        wanted, *hashes = entry.split("--hash=")
        requirement = Requirement(wanted)
        found[canonicalize_name(requirement.name)] = Pin(requirement, bool(hashes))
    return found


def problems(directory: Path) -> Iterator[str]:
    """Yield one line per requirement or pin that is not as it should be."""
    versions: dict[str, str] = {}
    for name, extras in _LOCKS.items():
        locked = pins(directory / name)
        for package, pin in sorted(locked.items()):
            if not pin.version:
                yield f"{name}: {package} must be pinned with ==, got {pin.requirement}"
            elif not pin.hashed:
                yield f"{name}: {package}=={pin.version} has no hash"
            elif (other := versions.setdefault(package, pin.version)) != pin.version:
                yield f"{name}: {package} must have the same version in all lock files, got {pin.version} and {other}"
        for requirement in sorted(requested(directory, extras), key=str):
            pin = locked.get(canonicalize_name(requirement.name))
            if pin is None:
                yield f"{name}: {requirement.name} is missing"
            elif pin.version and not requirement.specifier.contains(pin.version, prereleases=True):
                yield f"{name}: {requirement} is required, but {pin.version} is pinned"


def main() -> None:
    """Check the lock files of the directory that the command line names."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    try:
        found = list(problems(directory))
    except (OSError, InvalidRequirement, tomllib.TOMLDecodeError) as error:
        sys.exit(f"The lock files cannot be checked: {error}")
    if found:
        sys.exit("\n".join([*found, "Run scripts/lock to write the lock files again"]))
    sys.stdout.write("All dependencies are pinned with hashes\n")


if __name__ == "__main__":
    main()
