"""The zip format: encoding and decoding of headers, with Zip64 and Unix modes and times.

Source: PKWARE's APPNOTE.TXT 6.3.10; Info-ZIP's proginfo/extrafld.txt for the extended timestamp.
"""

from __future__ import annotations

import stat
import struct
import time
from dataclasses import dataclass
from typing import NamedTuple

STORED, DEFLATED = 0, 8
LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
LOCAL_MARK, CENTRAL_MARK, END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END_64_MARK, LOCATOR_MARK, _DESCRIPTOR_MARK = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"
MAX_16, MAX_32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED = 0x1
"""The bit of `flags` for content that needs a password."""

_STREAMED, _UTF_8 = 0x8, 0x800
_UNIX, _MACOS = 3, 19
_PLAIN, _WITH_64 = 20, 45
_DOS_DIRECTORY = 0x10
_EXTRA_64, _EXTRA_TIMES = 0x0001, 0x5455
_OLDEST, _NEWEST = 315_532_800, 4_354_819_198
"""The range of DOS times, 1980 to 2107, as seconds since the epoch."""


class ZipError(Exception):
    """The data is not a zip archive, or not a complete one."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """An entry of an archive.

    Attributes:
        name: A directory's ends with a slash.
        mode: Type and permission bits of st_mode; 0 if the archive does not have them.
        mtime: Seconds since the epoch.
        method: How the content is compressed.
        flags: General purpose bits.
        crc: CRC-32 of the content.
        packed: Bytes of compressed content.
        size: Bytes of content.
        at: Where its local header is.
        streamed: Whether checksum and sizes follow the content, because they are not known before it.
        large: Whether the sizes of streamed content may need 64 bits.
    """

    name: bytes
    mode: int = 0
    mtime: int = 0
    method: int = STORED
    flags: int = 0
    crc: int = 0
    packed: int = 0
    size: int = 0
    at: int = 0
    streamed: bool = False
    large: bool = False


class Directory(NamedTuple):
    """Where the central directory is: its number of entries, its size and its offset, in bytes."""

    entries: int
    size: int
    at: int


def local(entry: Entry) -> bytes:
    """Encode the header before an entry's content."""
    numbers = (0, 0, 0) if entry.streamed else (entry.crc, entry.packed, entry.size)
    extra = _times(entry)
    if entry.large:
        numbers = (0, MAX_32, MAX_32)
        extra += struct.pack("<HHQQ", _EXTRA_64, 16, 0, 0)
    date, moment = _dos_time(entry.mtime)
    needed = _WITH_64 if entry.large else _PLAIN
    head = LOCAL.pack(
        LOCAL_MARK, needed, _flags(entry), entry.method, moment, date, *numbers, len(entry.name), len(extra)
    )
    return head + entry.name + extra


def descriptor(entry: Entry) -> bytes:
    """Encode what follows streamed content."""
    form = "<4sLQQ" if entry.large else "<4s3L"
    return struct.pack(form, _DESCRIPTOR_MARK, entry.crc, entry.packed, entry.size)


def central(entry: Entry) -> bytes:
    """Encode an entry's header in the central directory."""
    wide = [number for number in (entry.size, entry.packed, entry.at) if number >= MAX_32]
    extra = _times(entry)
    if wide:
        extra += struct.pack(f"<HH{len(wide)}Q", _EXTRA_64, 8 * len(wide), *wide)
    date, moment = _dos_time(entry.mtime)
    needed = _WITH_64 if wide or entry.large else _PLAIN
    attributes = entry.mode << 16 | (_DOS_DIRECTORY if stat.S_ISDIR(entry.mode) else 0)
    numbers = entry.crc, min(entry.packed, MAX_32), min(entry.size, MAX_32)
    lengths = len(entry.name), len(extra), 0
    made_by = _UNIX << 8 | needed
    head = CENTRAL.pack(
        *(CENTRAL_MARK, made_by, needed, _flags(entry), entry.method, moment, date),
        *(*numbers, *lengths, 0, 0, attributes, min(entry.at, MAX_32)),
    )
    return head + entry.name + extra


def end(directory: Directory) -> bytes:
    """Encode the end of an archive."""
    entries, size, at = directory
    wide = b""
    if entries >= MAX_16 or size >= MAX_32 or at >= MAX_32:
        fields = (END_64.size - 12, _UNIX << 8 | _WITH_64, _WITH_64, 0, 0, entries, entries, size, at)
        wide = END_64.pack(END_64_MARK, *fields) + LOCATOR.pack(LOCATOR_MARK, 0, at + size, 1)
    counts = min(entries, MAX_16), min(entries, MAX_16)
    return wide + END.pack(END_MARK, 0, 0, *counts, min(size, MAX_32), min(at, MAX_32), 0)


def entry_of(head: bytes, name: bytes, extra: bytes) -> Entry:
    """Decode a header of the central directory.

    Raises:
        ZipError: An extra field is malformed.
    """
    _, made_by, _, flags, method, moment, date, crc, packed, size, *_, attributes, at = CENTRAL.unpack(head)
    unix = made_by >> 8 in {_UNIX, _MACOS}
    entry = Entry(name=name if unix or flags & _UTF_8 else _as_utf_8(name), method=method, flags=flags, crc=crc)
    entry.packed, entry.size, entry.at, entry.mtime = packed, size, at, _from_dos_time(date, moment)
    if unix:
        entry.mode = attributes >> 16
    elif attributes & _DOS_DIRECTORY:
        entry.mode = stat.S_IFDIR | 0o755
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if len(field) < length:
            raise ZipError("an extra field of an entry is malformed")
        if kind == _EXTRA_64:
            _widen(entry, field)
        elif kind == _EXTRA_TIMES and length >= 5 and field[0] & 1:
            (entry.mtime,) = struct.unpack_from("<l", field, 1)
    return entry


def _widen(entry: Entry, field: bytes) -> None:
    for name in ("size", "packed", "at"):
        if getattr(entry, name) == MAX_32:
            if len(field) < 8:
                raise ZipError("a Zip64 field of an entry is malformed")
            setattr(entry, name, int.from_bytes(field[:8], "little"))
            field = field[8:]


def _flags(entry: Entry) -> int:
    flags = _STREAMED if entry.streamed else 0
    if entry.name.isascii():
        return flags
    try:
        entry.name.decode()
    except UnicodeDecodeError:
        return flags  # Other programs take such a name as it is.
    return flags | _UTF_8


def _as_utf_8(name: bytes) -> bytes:
    """Return a name of MS-DOS or Windows as UTF-8; without a flag it is in the code page of MS-DOS, or UTF-8 anyway."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437").encode()
    return name


b"\x80".decode("cp437")  # Loads the code page, which is impossible after chroot.


def _times(entry: Entry) -> bytes:
    """Encode the extended timestamp, which has the exact second in UTC, if it can hold it."""
    if not -(2**31) <= entry.mtime < 2**31:
        return b""
    return struct.pack("<HHBl", _EXTRA_TIMES, 5, 1, entry.mtime)


def _dos_time(seconds: int) -> tuple[int, int]:
    year, month, day, hour, minute, second, *_ = time.gmtime(min(max(seconds, _OLDEST), _NEWEST))
    return (year - 1980) << 9 | month << 5 | day, hour << 11 | minute << 5 | second // 2


def _from_dos_time(date: int, moment: int) -> int:
    days = _days(1980 + (date >> 9), date >> 5 & 15, date & 31)
    return days * 86_400 + (moment >> 11) * 3600 + (moment >> 5 & 63) * 60 + (moment & 31) * 2


def _days(year: int, month: int, day: int) -> int:
    """Return the days since the epoch. Source: Howard Hinnant, "chrono-compatible low-level date algorithms"."""
    year -= month <= 2
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    era, of_era = divmod(year, 400)
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
