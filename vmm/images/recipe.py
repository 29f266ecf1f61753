"""What a part of an image is, to those that build, store and list them."""

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
    """What a recipe builds with.

    Attributes:
        tools: The programs.
        scratch: An empty directory of its own, removed afterwards.
        report: Told what is being done.
        held: Descriptors that every program started must inherit: the lock lasts as long as anything of the build runs.
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
        space: Bytes of disk that it needs while it builds.
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
        """What it is built from, as far as it is known beforehand: another value asks for another build. Blocks."""
        ...

    async def build(self, shop: Workshop, into: Path) -> Mapping[str, str]:
        """Make the files in an existing directory; returns facts worth recording, such as package versions."""
        ...


def recipe_digest(*names: str) -> str:
    """Digest of files of this package: the version of a recipe."""
    return tree_digest(_HERE, [_HERE / name for name in names])


def tree_digest(root: Path, files: Iterable[Path] | None = None) -> str:
    """Digest of the names and contents of files; by default of all below a directory, but caches."""
    chosen = files if files is not None else source_files(root)
    digest = hashlib.sha256()
    for path in sorted(chosen):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)}\0{content}\n".encode())
    return digest.hexdigest()


def source_files(root: Path) -> list[Path]:
    """All files below a directory, but what Python leaves behind."""
    return [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
