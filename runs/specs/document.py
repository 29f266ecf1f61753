"""Spec files: reading them within bounds, and the spec with the text that it came from."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .checking import checked, placed
from .faults import Fault, SpecRefused, SyntaxFault
from .json_parser import parse_json
from .rules import broken_rules
from .spec import Spec
from .yaml_parser import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .node import Node
    from .rules import Problem

MOST_BYTES = 1024 * 1024
"""The size of the largest file; specs are a few thousand bytes."""

_YAML = {".yaml", ".yml"}
_OTHERS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A valid spec.

    Attributes:
        file: The file's name, as the caller gave it.
        spec: What it says.
        root: The parsed text, which knows the place of every value.
    """

    file: str
    spec: Spec
    root: Node

    def place(self, problems: Iterable[Problem]) -> list[Fault]:
        """Return problems with this spec as faults, which say where they are."""
        return placed(self.root, problems)

    def refused(self, problems: Iterable[Problem]) -> SpecRefused | None:
        """Return problems with this spec as an error that says where they are; None if there are none."""
        faults = self.place(problems)
        return SpecRefused(self.file, faults) if faults else None


def load(path: Path) -> Document:
    """Read a spec file; the calling thread waits for the disk.

    Raises:
        SpecRefused: It cannot be read or is not a valid spec.
    """
    return parse(read(path), file=str(path))


def parse(data: bytes, *, file: str) -> Document:
    """Parse a spec: YAML if the file's name ends in .yaml or .yml, otherwise JSON.

    Raises:
        SpecRefused: It is not a valid spec.
    """
    root, faults = tree(data, file=file)
    if root.value is None:
        raise _whole(file, "is empty: write a spec with kind and name")
    spec, wrong = checked(root, Spec)
    faults += wrong
    if spec is not None:
        faults += placed(root, broken_rules(spec))
    if spec is None or faults:
        raise SpecRefused(file, faults)
    return Document(file=file, spec=spec, root=root)


def read(path: Path) -> bytes:
    """Read a file within the bounds of specs.

    Raises:
        SpecRefused: It cannot be read, or is too large.
    """
    try:
        with path.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except IsADirectoryError:
        raise _whole(str(path), "is a directory: give a spec file") from None
    except OSError as error:
        raise _whole(str(path), f"cannot be read ({error.strerror}): give a spec file") from None
    except ValueError:
        raise _whole(str(path).replace("\0", "\\0"), "is not the name of a file") from None
    if len(data) > MOST_BYTES:
        raise _whole(str(path), f"is larger than {MOST_BYTES // 1024} KiB: specs are small, give the right file")
    return data


def tree(data: bytes, *, file: str) -> tuple[Node, list[Fault]]:
    """Parse YAML or JSON, by the file's name; the faults are those after which reading could go on.

    Raises:
        SpecRefused: It cannot be read.
    """
    try:
        text = _decoded(data)
        return parse_yaml(text) if Path(file).suffix.lower() in _YAML else parse_json(text)
    except SyntaxFault as error:
        raise SpecRefused(file, [error.fault]) from None


def _decoded(data: bytes) -> str:
    if data.startswith(_OTHERS):
        raise SyntaxFault(0, 0, "is in UTF-16 or UTF-32: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise SyntaxFault(line, column, "has a byte that is not UTF-8: save the file as UTF-8") from None


def _whole(file: str, message: str) -> SpecRefused:
    return SpecRefused(file, [Fault(line=0, column=0, path="", message=message)])
