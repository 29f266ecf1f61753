"""Turns the agent's JSON and data into values."""

from __future__ import annotations

from typing import Any, TypeVar

from vmm.errors import LinkError

from .caller import Reply
from .values import Captured, Outcome, OutputSlice

T = TypeVar("T")


def plain(kind: type[T], value: dict[str, Any]) -> T:
    """Make a value whose fields have the agent's names.

    Raises:
        LinkError: The agent's answer has missing or unknown fields.
    """
    try:
        return kind(**value)
    except TypeError as error:
        raise LinkError(f"The guest's answer must be {kind.__name__}: {error}") from error


def outcome(reply: Reply) -> Outcome:
    """Read the state of a command; the data holds head and tail of stdout, then of stderr."""
    value = dict(reply.value)
    stdout, at = captured(value.get("stdout"), reply.data, 0)
    stderr, _ = captured(value.get("stderr"), reply.data, at)
    return plain(Outcome, value | {"stdout": stdout, "stderr": stderr})


def captured(sizes: object, data: bytes, at: int) -> tuple[Captured, int]:
    """Read head and tail of a stream, which begin at an index of the data; return them and where they end.

    Args:
        sizes: The sizes of head, tail and of everything written, as the agent gave them.
        data: The data of the reply.
        at: Where the stream's part begins.
    """
    head, tail, total = _numbers(sizes, 3)
    middle, end = at + head, at + head + tail
    return Captured(head=data[at:middle], tail=data[middle:end], total=total, dropped=total - head - tail), end


def slices(reply: Reply, *names: str) -> list[OutputSlice]:
    """Read parts of streams, which follow each other in the data."""
    found: list[OutputSlice] = []
    at = 0
    for name in names:
        offset, size = _numbers(reply.value.get(name), 2)
        found.append(OutputSlice(offset=offset, data=reply.data[at : at + size], next_offset=offset + size))
        at += size
    return found


def _numbers(value: Any, count: int) -> list[int]:
    if not isinstance(value, list) or len(value) != count or not all(isinstance(item, int) for item in value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        raise LinkError("The guest's answer does not say which data belongs to which stream")
    return value  # pyright: ignore[reportUnknownVariableType]
