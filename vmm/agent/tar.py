"""The tar format: encoding and decoding of headers. POSIX pax with extended records, and older GNU extensions.

Names are arbitrary bytes; times are in nanoseconds; sparse files are written in GNU's sparse format 1.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

BLOCK = 512
END = bytes(2 * BLOCK)

REGULAR, HARD, SYMBOLIC, CHARACTER_DEVICE = b"0", b"1", b"2", b"3"
BLOCK_DEVICE, DIRECTORY, FIFO, CONTIGUOUS = b"4", b"5", b"6", b"7"
RECORDS, GLOBAL_RECORDS, LONG_NAME, LONG_LINK = b"x", b"g", b"L", b"K"
KINDS = frozenset((REGULAR, HARD, SYMBOLIC, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO))

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_PARTS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s")
_MAX_NAME = 100
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_NS = 10**9
_NO_ID = 2**32 - 1
_MAX_DIGITS = 18


class TarError(Exception):
    """The data is not a tar archive, or not a complete one."""


@dataclass(slots=True, kw_only=True)
class Member:
    """A member of an archive.

    Attributes:
        path: Relative to the directory that it is unpacked into.
        kind: One of KINDS, or an unknown kind.
        mode: Permission bits.
        size: Bytes of content that follow the header.
        link: The target of a link; for a hard link, the path of another member.
        whole: For a sparse file, its size including holes; its content begins with a map. None for others.
        records: Extended records that no other attribute holds.
    """

    path: bytes
    kind: bytes = REGULAR
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    whole: int | None = None
    records: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])


def pack(member: Member) -> bytes:
    """Encode a member's header, preceded by extended records for values that do not fit the header."""
    records = dict(member.records)
    path, link = member.path, member.link
    if member.whole is not None:
        records |= {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": path}
        records[b"GNU.sparse.realsize"] = b"%d" % member.whole
        path = b"GNUSparseFile.0/" + path.rpartition(b"/")[2]
    if len(path) > _MAX_NAME or not path.isascii():
        records[b"path"] = path
    if len(link) > _MAX_NAME or not link.isascii():
        records[b"linkpath"] = link
    seconds, fraction = divmod(member.mtime_ns, _NS)
    if fraction or not 0 <= seconds <= _MAX_SIZE:
        records[b"mtime"] = _decimal(member.mtime_ns)
    for name, value, largest in ((b"uid", member.uid, _MAX_ID), (b"gid", member.gid, _MAX_ID)):
        if value > largest:
            records[name] = b"%d" % value
    if member.size > _MAX_SIZE:
        records[b"size"] = b"%d" % member.size
    extended = b""
    if records:
        content = b"".join(_record(name, value) for name, value in records.items())
        pax = Member(path=b"PaxHeaders/" + path[-60:], kind=RECORDS, mode=0o644, size=len(content))
        extended = _header(pax, 0) + content + padding(len(content))
    return extended + _header(member, seconds, path=path)


def padding(size: int) -> bytes:
    """Return the padding after content, up to the end of its last block."""
    return bytes(-size % BLOCK)


def unpack(block: bytes) -> Member | None:
    """Decode a header block into a member; None for the empty block at the archive's end.

    Raises:
        TarError: The block is not a header.
    """
    if not any(block):
        return None
    name, mode, uid, gid, size, mtime, check, kind, link, magic, *_, prefix = _PARTS.unpack_from(block)
    digits = check.strip(b" \0")
    if not digits.isdigit() or sum(block) - sum(check) + 8 * 32 != _number(check):
        raise TarError("not a valid tar archive: a header has a wrong checksum")
    if _number(size) < 0:
        raise TarError("a tar header has a negative size")
    path, directory = name.partition(b"\0")[0], prefix.partition(b"\0")[0]
    if magic.startswith(b"ustar\0") and directory:
        path = directory + b"/" + path
    if kind in {b"\0", CONTIGUOUS}:
        kind = REGULAR
    if kind == REGULAR and path.endswith(b"/"):
        kind = DIRECTORY
    return Member(
        path=path,
        kind=kind,
        mode=_number(mode) & 0o7777,
        uid=_number(uid),
        gid=_number(gid),
        size=_number(size),
        mtime_ns=_number(mtime) * _NS,
        link=link.partition(b"\0")[0],
    )


def read_records(content: bytes) -> dict[bytes, bytes]:
    """Decode extended records.

    Raises:
        TarError: They are malformed.
    """
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content) and content[at]:
        length, _, _ = content[at : at + 20].partition(b" ")
        end = at + whole_number(length)
        name, separator, value = content[at + len(length) + 1 : end - 1].partition(b"=")
        if not separator or content[end - 1 : end] != b"\n" or end <= at + len(length):
            raise TarError("an extended header is malformed")
        records[name] = value
        at = end
    return records


def apply(member: Member, records: dict[bytes, bytes]) -> None:
    """Apply extended records to a member.

    Raises:
        TarError: A number is malformed or out of range.
    """
    for name, value in records.items():
        match name:
            case b"path":
                member.path = value
            case b"linkpath":
                member.link = value
            case b"size":
                member.size = whole_number(value)
            case b"uid":
                member.uid = whole_number(value)
            case b"gid":
                member.gid = whole_number(value)
            case b"mtime":
                member.mtime_ns = _nanoseconds(value)
            case _:
                member.records[name] = value
    if not (0 <= member.uid < _NO_ID and 0 <= member.gid < _NO_ID):
        raise TarError(f"uid and gid must be 0 to {_NO_ID - 1}, got {member.uid}:{member.gid}")
    if member.records.get(b"GNU.sparse.major") == b"1":
        member.path = member.records.get(b"GNU.sparse.name", member.path)
        member.whole = whole_number(member.records.get(b"GNU.sparse.realsize", b""))


def whole_number(digits: bytes) -> int:
    """Parse a number in decimal digits.

    Raises:
        TarError: It has other characters or is too long.
    """
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise TarError(f"a number must be 1 to {_MAX_DIGITS} digits, got {digits[:40]!r}")
    return int(digits)


def _header(member: Member, seconds: int, *, path: bytes = b"") -> bytes:
    block = bytearray(
        _HEADER.pack(
            (path or member.path)[:_MAX_NAME],
            b"%07o" % member.mode,
            b"%07o" % min(member.uid, _MAX_ID),
            b"%07o" % min(member.gid, _MAX_ID),
            b"%011o" % min(member.size, _MAX_SIZE),
            b"%011o" % min(max(seconds, 0), _MAX_SIZE),
            b"        ",
            member.kind,
            member.link[:_MAX_NAME],
            b"ustar\00000",
            *(b"", b"", b"", b"", b""),
        )
    )
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _record(name: bytes, value: bytes) -> bytes:
    rest = len(name) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, name, value)


def _number(digits: bytes) -> int:
    """Parse a number of a header: octal digits, or binary (base-256) if the first bit is set."""
    if digits[0] & 0x80:
        value = int.from_bytes(digits, "big", signed=False) & ~(0x80 << 8 * (len(digits) - 1))
        return value - (1 << 8 * len(digits) - 1) if digits[0] & 0x40 else value
    try:
        return int(digits.strip(b" \0") or b"0", 8)
    except ValueError:
        raise TarError(f"a tar header has {digits[:12]!r} in place of a number") from None


def _decimal(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), _NS)
    sign = b"-" if nanoseconds < 0 else b""
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _nanoseconds(text: bytes) -> int:
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    value = whole_number(seconds) * _NS + whole_number((fraction + b"0" * 9)[:9])
    return -value if text.startswith(b"-") else value
