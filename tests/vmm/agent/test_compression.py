"""Compressed streams in pieces."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.agent.compression import (
    PIECE,
    CompressionError,
    Compressor,
    Read,
    bunzip2,
    bzip2,
    deflate,
    gunzip,
    inflate,
)
from vmm.agent.compression import gzip as gzip_compressor

Decode = Callable[[Read], Iterator[bytes]]
CODECS: dict[str, tuple[Callable[[], Compressor], Decode]] = {
    "gzip": (gzip_compressor, gunzip),
    "bzip2": (bzip2, bunzip2),
    "deflate": (deflate, inflate),
}
CONTENT = b"content " * 20_000 + bytes(3 * PIECE) + os.urandom(100_000)


def packed(codec: str, content: bytes) -> bytes:
    stream = CODECS[codec][0]()
    return stream.compress(content) + stream.flush()


def unpacked(codec: str, data: bytes, *, step: int = 10_000) -> bytes:
    file = io.BytesIO(data)
    pieces = list(CODECS[codec][1](lambda: file.read(step)))
    assert max(map(len, pieces), default=0) <= PIECE
    return b"".join(pieces)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("step", [1, 4096, 10_000_000])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["nothing", "a byte", "much"])
def test_content_is_the_same_after_packing_and_unpacking(codec: str, step: int, content: bytes) -> None:
    data = packed(codec, content)
    assert unpacked(codec, data, step=step if len(data) < 200_000 else max(step, 4096)) == content


@given(st.binary(max_size=3000), st.integers(min_value=1, max_value=3000))
def test_any_content_arrives_in_any_pieces(content: bytes, step: int) -> None:
    for codec in CODECS:
        assert unpacked(codec, packed(codec, content), step=step) == content


def test_other_programs_read_the_streams_and_their_streams_are_read() -> None:
    assert gzip.decompress(packed("gzip", CONTENT)) == CONTENT
    assert bz2.decompress(packed("bzip2", CONTENT)) == CONTENT
    assert zlib.decompress(packed("deflate", CONTENT), -15) == CONTENT
    assert unpacked("gzip", gzip.compress(CONTENT, 9)) == CONTENT
    assert unpacked("bzip2", bz2.compress(CONTENT, 1)) == CONTENT


@pytest.mark.parametrize("codec", ["gzip", "bzip2"])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_streams_that_follow_each_other_are_one_content_and_what_is_no_stream_is_ignored(codec: str, step: int) -> None:
    one, two = packed(codec, b"one "), packed(codec, b"two")
    assert unpacked(codec, one + two, step=step) == b"one two"
    assert unpacked(codec, one + bytes(1000) + two + bytes(1000), step=step) == b"one two"
    assert unpacked(codec, one + b"something else", step=step) == b"one "


@pytest.mark.parametrize("codec", CODECS)
def test_a_stream_that_is_cut_anywhere_is_refused(codec: str) -> None:
    data = packed(codec, b"content " * 1000)
    for end in range(len(data)):
        with pytest.raises(CompressionError, match="truncated"):
            unpacked(codec, data[:end])


@pytest.mark.parametrize("codec", ["gzip", "bzip2"])
def test_a_stream_with_a_changed_byte_is_refused_or_has_its_content(codec: str) -> None:
    data = packed(codec, os.urandom(500))
    good = unpacked(codec, data)
    refused = 0
    for at in range(len(data)):
        changed = data[:at] + bytes((data[at] ^ 0x20,)) + data[at + 1 :]
        try:
            assert unpacked(codec, changed) == good
        except CompressionError:
            refused += 1
    assert refused > len(data) * 0.9
