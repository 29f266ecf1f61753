"""Compressed streams: gzip, bzip2 and raw deflate, in pieces of bounded size."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

PIECE = 256 * 1024
"""Maximum bytes of a piece that decompression yields, whatever the data says."""

_LEVEL = 6
_GZIP_BITS = zlib.MAX_WBITS + 16
_GZIP_MAGIC, _BZIP2_MAGIC = b"\x1f\x8b", b"BZh"

Read = Callable[[], bytes]
"""Returns the next bytes of the compressed data; none at its end."""


class CompressionError(Exception):
    """Compressed data is damaged or incomplete."""


class Compressor(Protocol):
    """Compresses a stream."""

    def compress(self, data: bytes, /) -> bytes:
        """Take the next bytes of content, and return what is complete of the stream."""
        ...

    def flush(self) -> bytes:
        """Return the end of the stream."""
        ...


def gzip() -> Compressor:
    """Make a compressor for a gzip stream, RFC 1952."""
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_BITS)


def bzip2() -> Compressor:
    """Make a compressor for a bzip2 stream."""
    return bz2.BZ2Compressor()


def deflate() -> Compressor:
    """Make a compressor for raw deflate, RFC 1951."""
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)


def gunzip(read: Read) -> Iterator[bytes]:
    """Yield the content of gzip streams that follow each other.

    Raises:
        CompressionError: They are damaged or incomplete.
    """
    return _all(read, lambda: _Inflate(_GZIP_BITS), _GZIP_MAGIC)


def bunzip2(read: Read) -> Iterator[bytes]:
    """Yield the content of bzip2 streams that follow each other.

    Raises:
        CompressionError: They are damaged or incomplete.
    """
    return _all(read, _Bunzip2, _BZIP2_MAGIC)


def inflate(read: Read) -> Iterator[bytes]:
    """Yield the content of one raw deflate stream.

    Raises:
        CompressionError: It is damaged or incomplete.
    """
    return _one(read, _Inflate(-zlib.MAX_WBITS))


class _Decoder(Protocol):
    """Decompresses one stream.

    Attributes:
        hungry: Whether it has returned all content of the data that it was given.
        ended: Whether the stream has ended.
        rest: The data after the end.
    """

    hungry: bool
    ended: bool
    rest: bytes

    def decode(self, data: bytes) -> bytes: ...


class _Inflate:
    def __init__(self, bits: int) -> None:
        self._stream = zlib.decompressobj(bits)
        self.hungry = True
        self.ended = False
        self.rest = b""

    def decode(self, data: bytes) -> bytes:
        try:
            content = self._stream.decompress(self._stream.unconsumed_tail + data, PIECE)
        except zlib.error as error:
            raise CompressionError("its compressed data is damaged") from error
        # A full piece may leave content inside of zlib, even if no data is left.
        self.hungry = not self._stream.unconsumed_tail and len(content) < PIECE
        self.ended, self.rest = self._stream.eof, self._stream.unused_data
        return content


class _Bunzip2:
    def __init__(self) -> None:
        self._stream = bz2.BZ2Decompressor()
        self.hungry = True
        self.ended = False
        self.rest = b""

    def decode(self, data: bytes) -> bytes:
        try:
            content = self._stream.decompress(data, PIECE)
        except (OSError, ValueError) as error:
            raise CompressionError("its compressed data is damaged") from error
        self.hungry, self.ended = self._stream.needs_input, self._stream.eof
        self.rest = self._stream.unused_data if self.ended else b""
        return content


def _one(read: Read, decoder: _Decoder) -> Iterator[bytes]:
    while not decoder.ended:
        data = read() if decoder.hungry else b""
        if decoder.hungry and not data:
            raise CompressionError("its compressed data is truncated")
        yield decoder.decode(data)


def _all(read: Read, new: Callable[[], _Decoder], magic: bytes) -> Iterator[bytes]:
    rest = b""

    def take() -> bytes:
        nonlocal rest
        data, rest = rest, b""
        return data or read()

    while True:
        decoder = new()
        yield from _one(take, decoder)
        rest = decoder.rest.lstrip(b"\0")
        while not rest:
            data = read()
            if not data:
                return
            rest = data.lstrip(b"\0")  # Padding, as on tapes.
            yield b""
        if not rest.startswith(magic[: len(rest)]):
            return  # Something else follows, which gzip and bzip2 ignore, too.
