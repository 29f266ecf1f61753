"""Listing a directory of any size as a stream, in flat memory."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable

from . import frames
from .channel import Channel
from .entries import describe
from .refusals import RefusalError, from_os_error

MAX_SORTED = 100_000
"""Entries up to which they are in the order of their names; more are in the directory's own."""

_PIECE = 64 * 1024
"""Bytes of a frame, about; one entry has at most 50 KiB, even if every character of its names is escaped."""


def stream_listing(channel: Channel, path: bytes, limit: int) -> None:
    """Send a directory's entries in frames, each a JSON array.

    Raises:
        RefusalError: The path is not a directory that can be read.
    """
    base = path.rstrip(b"/") + b"/"
    try:
        with os.scandir(path) as entries:
            names = (entry.name for entry in entries)
            first = list(itertools.islice(names, MAX_SORTED + 1))
            channel.send_raw(frames.pack_json(frames.HEAD, describe(base)))
            if len(first) <= MAX_SORTED:
                first.sort()
            truncated = _send(channel, base, itertools.chain(first, names), limit)
    except OSError as error:
        raise from_os_error(error, path) from error
    channel.send_result({"truncated": truncated})


def _send(channel: Channel, base: bytes, names: Iterable[bytes], limit: int) -> bool:
    """Send entries, and return whether there are more than the limit."""
    lines: list[str] = []
    size = 0
    truncated = False
    for number, name in enumerate(names):
        if number == limit:
            truncated = True
            break
        try:
            line = json.dumps(describe(base + name), separators=(",", ":"))
        except RefusalError:
            continue  # Deleted meanwhile.
        lines.append(line)
        size += len(line)
        if size > _PIECE:
            _flush(channel, lines)
            lines, size = [], 0
    if lines:
        _flush(channel, lines)
    return truncated


def _flush(channel: Channel, lines: list[str]) -> None:
    channel.send(frames.DATA, f"[{','.join(lines)}]".encode())
