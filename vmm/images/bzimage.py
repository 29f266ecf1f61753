"""Extracts the uncompressed kernel from a bzImage, because QEMU's microvm machine boots only that."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib

from vmm.errors import Unavailable

_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_PAYLOAD_OFFSET = 0x248
_HEADER_END = 0x250
_DEFAULT_SECTORS = 4
_SECTOR = 512
_DEADLINE_S = 60
_ELF = b"\x7fELF"


def payload(image: bytes) -> bytes:
    """Return the compressed kernel in a bzImage (Documentation/arch/x86/boot.rst).

    Raises:
        Unavailable: It is not a bzImage.
    """
    if len(image) < _HEADER_END or image[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise Unavailable("The kernel is not a bzImage: its header is missing")
    sectors = image[_SETUP_SECTORS] or _DEFAULT_SECTORS
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = (sectors + 1) * _SECTOR + offset
    if length < 8 or start + length > len(image):
        raise Unavailable("The kernel's bzImage is incomplete: its payload is cut off")
    return image[start : start + length]


def unpack(image: bytes) -> bytes:
    """Return the ELF kernel of a bzImage. Blocks for a second: call it in a thread.

    Raises:
        Unavailable: It is not a bzImage, or its compression is not supported.
    """
    packed = payload(image)
    elf = _decompress(packed)
    if elf[:4] != _ELF:
        raise Unavailable("The kernel's payload is not an ELF file")
    return elf


def _decompress(packed: bytes) -> bytes:
    head = packed[:6]
    # The build appends the unpacked size in four bytes to every payload except gzip's, whose format ends with it.
    body = packed[:-4]
    try:
        if head[:4] == b"\x02\x21\x4c\x18":
            return _filter("lz4", body)
        if head[:4] == b"\x28\xb5\x2f\xfd":
            return _filter("zstd", body)
        if head[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=31).decompress(packed)
        if head == b"\xfd7zXZ\x00":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(body)
        if head[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(body)
    except (zlib.error, lzma.LZMAError, OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"The kernel cannot be unpacked: {error}") from error
    raise Unavailable(f"The kernel's compression is not supported: its payload begins with {head.hex()}")


def _filter(program: str, data: bytes) -> bytes:
    path = shutil.which(program)
    if path is None:
        raise Unavailable(f"{program} is missing", hint=f"Install it: sudo apt-get install {program}")
    done = subprocess.run([path, "-dc"], input=data, capture_output=True, check=True, timeout=_DEADLINE_S)
    return done.stdout
