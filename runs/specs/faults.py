"""What is wrong with a spec file, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""The way to a value in a document: names of fields and indexes of lists, from the top."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fault:
    """One fault.

    Attributes:
        line: Line, from 1; 0 if the whole file is meant.
        column: Column in characters, from 1; 0 if the whole file is meant.
        path: The field, such as `workflow.steps[2].run`; empty at the top.
        message: What is wrong with it, with its value and the way out.
    """

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def at(self, file: str) -> str:
        """Return the fault as compilers write it, `file:line:column: …`, so that editors jump to it."""
        return f"{file}:{self.line}:{self.column}: {self}" if self.line else f"{file}: {self}"


MOST_FAULTS = 100
"""How many faults of a file are told."""


class SpecRefused(Exception):
    """A file is not a valid spec.

    Attributes:
        file: Its name, as the caller gave it.
        faults: All that was found, in the order of the file; at least one, at most MOST_FAULTS.
    """

    def __init__(self, file: str, faults: Iterable[Fault]) -> None:
        self.file = file
        self.faults = tuple(sorted(set(faults))[:MOST_FAULTS])
        super().__init__(file, self.faults)

    def __str__(self) -> str:
        return "\n".join(fault.at(file=self.file) for fault in self.faults)


class SyntaxFault(Exception):
    """The text cannot be parsed any further; `fault` says where and why."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(line=line, column=column, path="", message=message)


def dotted(path: Path) -> str:
    """Write a path as in `workflow.steps[2].run`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
