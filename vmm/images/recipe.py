"""The interface of a recipe, which builds one part of an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .apt import Apt
from .progress import Report
from .tools import Tools

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """The environment of a build.

    Attributes:
        tools: The programs.
        scratch: An empty directory for the build, removed afterwards.
        report: Receives each step.
        held: Descriptors that every started program must inherit: the lock lasts as long as any of them runs.
    """

    tools: Tools
    scratch: Path
    report: Report
    held: tuple[int, ...] = ()

    @property
    def apt(self) -> Apt:
        """The host's packages."""
        return Apt(tools=self.tools)


class Recipe(Protocol):
    """Builds one part.

    Attributes:
        name: The part's name, which begins the name of its directory.
        files: Names of the files that it makes.
        weight: Its expected time in units of progress.
        space: Bytes of disk space that its build needs.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (described above)
    @property
    def files(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def weight(self) -> int: ...  # noqa: D102
    @property
    def space(self) -> int: ...  # noqa: D102

    def inputs(self) -> Mapping[str, str]:
        """Return the inputs that are known before a build; if one changes, the part must be built again. Blocks."""
        ...

    async def build(self, shop: Workshop, into: Path) -> Mapping[str, str]:
        """Make the files in an existing directory, and return facts worth recording, such as package versions."""
        ...


def recipe_digest(*names: str) -> str:
    """Digest files of this package: the version of a recipe."""
    return tree_digest(_HERE, [_HERE / name for name in names])


def tree_digest(root: Path, files: Iterable[Path] | None = None) -> str:
    """Digest the names and contents of files, by default of all files below a directory except caches."""
    chosen = files if files is not None else source_files(root)
    digest = hashlib.sha256()
    for path in sorted(chosen):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)}\0{content}\n".encode())
    return digest.hexdigest()


def source_files(root: Path) -> list[Path]:
    """List all files below a directory, except Python's caches."""
    return [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
