"""The host's calls that transfer whole directory trees, each as one tar stream."""

from __future__ import annotations

import os
import time

from . import frames
from .arguments import Arguments
from .channel import Channel
from .entries import describe, make_parents, parent_of, status_of
from .packing import Packer
from .refusals import RefusalError, from_os_error, invalid, shown
from .tally import Tally
from .tar import TarError
from .unpacking import Unpacker

_HEARTBEAT = 1.0
"""Seconds between signs of life while an archive is unpacked."""


class Archives:
    """Packs and unpacks directories."""

    def pack(self, channel: Channel, arguments: Arguments) -> None:
        """Stream a directory with its contents; both the result and the stream list what was left out."""
        path = arguments.path()
        try:
            packer = Packer(path)
        except OSError as error:
            raise from_os_error(error, path) from error
        try:
            channel.send_raw(frames.pack_json(frames.HEAD, describe(path, packer.status)))
            for piece in packer.pieces():
                channel.send(frames.DATA, piece)
            channel.send_result(packer.tally.report())
        finally:
            packer.close()

    def unpack(self, channel: Channel, arguments: Arguments) -> None:
        """Unpack a stream into a directory, which is created if it is missing."""
        path = arguments.path()
        owners = arguments.flag("owners")
        if status_of(parent_of(path)) is None:
            make_parents(path)
        try:
            fresh = _make_if_missing(path)
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error(error, path) from error
        unpacker = Unpacker(root, fresh=fresh, owners=owners)
        try:
            next_beat = time.monotonic() + _HEARTBEAT
            for piece in channel.body():
                unpacker.feed(piece)
                if time.monotonic() > next_beat:
                    channel.send(frames.DATA, b"")  # Unpacking what the host has sent may take minutes.
                    next_beat = time.monotonic() + _HEARTBEAT
            unpacker.finish()
        except TarError as error:
            raise invalid(f"{shown(path)}: {error}{_progress(unpacker.tally)}") from error
        except OSError as error:
            refusal = from_os_error(error, path)
            raise RefusalError(refusal.code, refusal.message + _progress(unpacker.tally)) from error
        finally:
            unpacker.close()
        channel.send_result(unpacker.tally.report())


def _make_if_missing(path: bytes) -> bool:
    """Make a directory, and return whether it was missing."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _progress(tally: Tally) -> str:
    return f"; unpacked before that: {tally.files} files" if tally.files else ""
