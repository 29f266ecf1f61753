from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess

import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import Unavailable
from vmm.images import bzimage

_ELF = b"\x7fELF" + b"kernel" * 1000


def _image(payload: bytes) -> bytes:
    image = bytearray(1024)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + b"\0" * 16 + payload + b"what follows"


def _sized(data: bytes) -> bytes:
    return data + struct.pack("<I", len(_ELF))


@pytest.mark.skipif(shutil.which("lz4") is None, reason="lz4 is not installed")
def test_an_lz4_kernel_is_unpacked() -> None:
    packed = subprocess.run(["lz4", "-l", "-c"], input=_ELF, capture_output=True, check=True, timeout=PATIENCE_S).stdout
    assert bzimage.unpack(_image(_sized(packed))) == _ELF


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(_ELF), _sized(lzma.compress(_ELF)), _sized(bz2.compress(_ELF))],
    ids=["gzip", "xz", "bzip2"],
)
def test_other_compressions_are_unpacked(packed: bytes) -> None:
    assert bzimage.unpack(_image(packed)) == _ELF


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "header is missing"),
        (b"\x7fELF" * 1000, "header is missing"),
        (_image(gzip.compress(_ELF))[:1060], "cut off"),
        (_image(b"whatever this is"), "not supported"),
        (_image(gzip.compress(b"no ELF at all")), "not an ELF"),
        (_image(_sized(lzma.compress(_ELF)[:20] + b"spoilt" * 20)), "cannot be unpacked|not an ELF"),
    ],
    ids=["empty", "elf", "cut", "unknown", "no-elf", "spoilt"],
)
def test_data_that_is_not_a_kernel_is_refused(image: bytes, reason: str) -> None:
    with pytest.raises(Unavailable, match=reason):
        bzimage.unpack(image)
