"""A log of one output stream of a process: the first bytes, the last ones in a ring buffer, and a spool of them all.

As long as the spool takes everything, so does the log. What it refuses is kept in memory alone, as far as it fits.
"""

from __future__ import annotations

from .spool import Spool, Spools

KIB = 1024
HEAD = 256 * KIB
TAIL = 1024 * KIB


class OutputLog:
    """An append-only stream of bytes with absolute offsets, of which at most `head + tail` bytes are in memory.

    Args:
        head: Bytes from the beginning to keep in memory.
        tail: Bytes from the end to keep in memory.
        spools: Makes the file for a stream that is longer than `head`; without it, memory is all there is.

    Attributes:
        total: Number of bytes ever written.
        reader: The offset up to which its reader has read it; None if nothing is kept for a reader.
    """

    def __init__(self, *, head: int = HEAD, tail: int = TAIL, spools: Spools | None = None) -> None:
        self._head_limit = head
        self._tail_limit = tail
        self._head = bytearray()
        self._ring = bytearray()
        self._origin = 0  # The stream offset of index 0 in the ring.
        self._shed = False
        self._spools = spools
        self._spool: Spool | None = None
        self.total = 0
        self.reader: int | None = None

    @property
    def kept(self) -> int:
        """The number of bytes in memory."""
        return len(self._head) + len(self._ring)

    @property
    def tail_start(self) -> int:
        """The offset of the oldest byte in the ring."""
        return self.total - len(self._ring)

    @property
    def room(self) -> int:
        """How many bytes may follow at once until some would be dropped that its reader has not read."""
        if self.reader is None:
            return self._tail_limit
        spooled = 0 if self._spool is None else self._spool.size
        return self._tail_limit - (self.total - max(self.reader, spooled, len(self._head)))

    @property
    def crowded(self) -> bool:
        """Whether there is so little room that its process should wait for the reader."""
        return self.reader is not None and self.room <= self._tail_limit // 2

    def append(self, data: bytes) -> None:
        """Append output of the process."""
        if self._spool is None and self.total + len(data) > self._head_limit:
            self._open_spool()
        if self._spool is not None and not self._spool.full:
            self._spool.append(data)
        room = self._head_limit - len(self._head)
        if room > 0 and not self._shed:
            self._head += data[:room]
            self.total += min(room, len(data))
            data = data[room:]
        if data:
            self._append_tail(data)

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Return at most `limit` bytes from `offset` on, and where they start: later if some of them were dropped.

        There may be less than `limit` though more follow, but then never nothing.
        """
        if offset < len(self._head):
            data = bytes(self._head[offset : offset + limit])
            if offset + len(data) == len(self._head) == self.tail_start:
                data += self._read_tail(len(self._head), limit - len(data))
            return offset, data
        if offset < self.tail_start and self._spool is not None and (data := self._spool.read(offset, limit)):
            return offset, data
        offset = min(max(offset, self.tail_start), self.total)
        return offset, self._read_tail(offset, limit)

    def ends(self, head: int, tail: int) -> tuple[bytes, bytes]:
        """Return the first `head` and the last `tail` bytes; if everything fits, all of it as the first part."""
        if self.total <= head + tail and len(everything := self._from(0, self.total)) == self.total:
            return everything, b""
        first = self._from(0, head)
        return first, self._from(max(len(first), self.total - tail, self._gap_end()), tail)

    def shed(self) -> None:
        """Free the memory; offsets, the total and what the spool has stay."""
        if self._spool is None and self.total:
            self._open_spool()
        self._shed = True
        self._head = bytearray()
        self._ring = bytearray()

    def drop(self) -> None:
        """Free what is in the spool; offsets, the total and what is in memory stay."""
        self._spools = self._spool = None

    def _open_spool(self) -> None:
        """Begin a spool with what is in memory, which must be everything."""
        spools, self._spools = self._spools, None
        if spools is None or self.kept < self.total:
            return
        self._spool = spools.open()
        offset = 0
        while self._spool is not None and offset < self.total and not self._spool.full:
            data = self.read(offset, HEAD)[1]
            self._spool.append(data)
            offset += len(data)

    def _from(self, start: int, count: int) -> bytes:
        """Return the bytes from an offset on, up to the first that was dropped."""
        pieces: list[bytes] = []
        while count > 0:
            begun, data = self.read(start, count)
            if begun != start or not data:
                break
            pieces.append(data)
            start += len(data)
            count -= len(data)
        return b"".join(pieces)

    def _gap_end(self) -> int:
        """Return the offset from which on nothing was dropped."""
        spooled = 0 if self._spool is None else self._spool.size
        return 0 if max(spooled, len(self._head)) >= self.tail_start else self.tail_start

    def _append_tail(self, data: bytes) -> None:
        ring, limit = self._ring, self._tail_limit
        if not ring:
            self._origin = self.total
        if len(ring) < limit:
            fitting = data[: limit - len(ring)]
            ring += fitting
            self.total += len(fitting)
            data = data[len(fitting) :]
        while data:
            index = (self.total - self._origin) % limit
            fitting = data[: limit - index]
            ring[index : index + len(fitting)] = fitting
            self.total += len(fitting)
            data = data[len(fitting) :]

    def _read_tail(self, offset: int, limit: int) -> bytes:
        count = min(limit, self.total - offset)
        if count <= 0:
            return b""
        index = (offset - self._origin) % self._tail_limit
        first = bytes(self._ring[index : index + count])
        return first + bytes(self._ring[: count - len(first)])
