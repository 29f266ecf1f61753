"""What a process wrote to one stream, kept within bounds: the first bytes for good, the last ones in a ring."""

from __future__ import annotations

KIB = 1024
HEAD = 256 * KIB
TAIL = 1024 * KIB


class OutputLog:
    """An append-only stream of bytes with absolute offsets, of which at most `head + tail` bytes are kept.

    Attributes:
        total: Bytes ever written.
    """

    def __init__(self, *, head: int = HEAD, tail: int = TAIL) -> None:
        self._head_limit = head
        self._tail_limit = tail
        self._head = bytearray()
        self._ring = bytearray()
        self._origin = 0  # The offset that lies at the ring's first place.
        self._shed = False
        self.total = 0

    @property
    def kept(self) -> int:
        """Bytes in memory."""
        return len(self._head) + len(self._ring)

    @property
    def tail_start(self) -> int:
        """Offset of the oldest byte in the ring."""
        return self.total - len(self._ring)

    def append(self, data: bytes) -> None:
        """Add what was just read."""
        room = self._head_limit - len(self._head)
        if room > 0 and not self._shed:
            self._head += data[:room]
            self.total += min(room, len(data))
            data = data[room:]
        if data:
            self._append_tail(data)

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most `limit` kept bytes from `offset` on, and where they begin: later than asked if some were dropped."""
        if offset < len(self._head):
            data = bytes(self._head[offset : offset + limit])
            if offset + len(data) == len(self._head) == self.tail_start:
                data += self._read_tail(len(self._head), limit - len(data))
            return offset, data
        offset = min(max(offset, self.tail_start), self.total)
        return offset, self._read_tail(offset, limit)

    def ends(self, head: int, tail: int) -> tuple[bytes, bytes]:
        """The first `head` and the last `tail` bytes; all of it as the first part if nothing need be left out."""
        if self.total <= head + tail and self.kept == self.total:
            return self.read(0, self.total)[1], b""
        first = bytes(self._head[:head])
        unbroken = self.kept == self.total
        start = max(len(first), self.total - tail, 0 if unbroken else self.tail_start)
        return first, self.read(start, tail)[1]

    def shed(self) -> None:
        """Forget what is kept; offsets and the total stay."""
        self._shed = True
        self._head = bytearray()
        self._ring = bytearray()

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
