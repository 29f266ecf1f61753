"""What was built: each file of a part with its digest, and how it is known that nobody changed it since."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ..errors import Unavailable

_NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file as it was when it was built.

    Attributes:
        name: Its name in the part's directory.
        sha256: Of its contents, in hex.
        size: Bytes.
    """

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A part of an image.

    Attributes:
        part: Its name.
        built_ms: When, in milliseconds since the epoch.
        artefacts: Its files.
    """

    part: str
    built_ms: int
    artefacts: tuple[Artefact, ...]

    @classmethod
    def of(cls, part: str, directory: Path, *, now_ms: int) -> Self:
        """Take the digests of every file in a directory."""
        files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != _NAME)
        artefacts = tuple(Artefact(name=path.name, sha256=digest(path), size=path.stat().st_size) for path in files)
        return cls(part=part, built_ms=now_ms, artefacts=artefacts)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The manifest of a directory; None if there is none."""
        try:
            values = json.loads((directory / _NAME).read_text())
        except FileNotFoundError:
            return None
        artefacts = tuple(Artefact(**artefact) for artefact in values.pop("artefacts"))
        return cls(**values, artefacts=artefacts)

    def write(self, directory: Path) -> None:
        """Keep it beside the files."""
        (directory / _NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @property
    def digest(self) -> str:
        """One digest over all files."""
        lines = "".join(f"{artefact.name} {artefact.sha256}\n" for artefact in self.artefacts)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(artefact.size for artefact in self.artefacts)

    def verify(self, directory: Path) -> tuple[tuple[int, int, int], ...]:
        """Compare every file's digest.

        Returns:
            The files' stamps, by which `stamps` tells later whether they were touched.

        Raises:
            Unavailable: A file is missing or changed; the hint says how to make it anew.
        """
        before = self.stamps(directory)
        for artefact in self.artefacts:
            if digest(directory / artefact.name) != artefact.sha256:
                raise self._changed(artefact.name)
        return before

    def stamps(self, directory: Path) -> tuple[tuple[int, int, int], ...]:
        """Inode, size and change time of every file: they change with any write.

        Raises:
            Unavailable: A file is missing.
        """
        found: list[tuple[int, int, int]] = []
        for artefact in self.artefacts:
            try:
                status = (directory / artefact.name).stat()
            except FileNotFoundError:
                raise self._changed(artefact.name) from None
            found.append((status.st_ino, status.st_size, status.st_ctime_ns))
        return tuple(found)

    def _changed(self, name: str) -> Unavailable:
        return Unavailable(
            f"{name} of {self.part} is not the file that was built",
            hint=f"Make it anew: casemate image build --force {self.part}",
        )


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
