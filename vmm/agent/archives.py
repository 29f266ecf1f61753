"""The host's calls that move whole trees: each one tar stream."""

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

_BEAT = 1.0


class Archives:
    """Pack and unpack."""

    def pack(self, channel: Channel, arguments: Arguments) -> None:
        """Stream a directory with all that is in it; the result tells what was left out, and so does the stream."""
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
        """Make what a stream holds in a directory, which is made if it is not there."""
        path = arguments.path()
        owners = arguments.flag("owners")
        if status_of(parent_of(path)) is None:
            make_parents(path)
        try:
            fresh = _made(path)
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error(error, path) from error
        unpacker = Unpacker(root, fresh=fresh, owners=owners)
        try:
            beat = time.monotonic() + _BEAT
            for piece in channel.body():
                unpacker.feed(piece)
                if time.monotonic() > beat:
                    channel.send(frames.DATA, b"")  # What was sent already may take minutes.
                    beat = time.monotonic() + _BEAT
            unpacker.finish()
        except TarError as error:
            raise invalid(f"{shown(path)}: {error}{_before(unpacker.tally)}") from error
        except OSError as error:
            refusal = from_os_error(error, path)
            raise RefusalError(refusal.code, refusal.message + _before(unpacker.tally)) from error
        finally:
            unpacker.close()
        channel.send_result(unpacker.tally.report())


def _made(path: bytes) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _before(tally: Tally) -> str:
    return f"; unpacked before that: {tally.files} files" if tally.files else ""
