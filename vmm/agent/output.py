"""A bounded log of one output stream of a process: it keeps the first bytes, and the last ones in a ring buffer."""

from __future__ import annotations

KIB = 1024
HEAD = 256 * KIB
TAIL = 1024 * KIB


class OutputLog:
    """An append-only stream of bytes with absolute offsets, of which at most `head + tail` bytes are kept.

    Attributes:
        total: Number of bytes ever written.
    """

    def __init__(self, *, head: int = HEAD, tail: int = TAIL) -> None:
        self._head_limit = head
        self._tail_limit = tail
        self._head = bytearray()
        self._ring = bytearray()
        self._origin = 0  # The stream offset of index 0 in the ring.
        self._shed = False
        self.total = 0

    @property
    def kept(self) -> int:
        """The number of bytes in memory."""
        return len(self._head) + len(self._ring)

    @property
    def tail_start(self) -> int:
        """The offset of the oldest byte in the ring."""
        return self.total - len(self._ring)

    def append(self, data: bytes) -> None:
        """Append output of the process."""
        room = self._head_limit - len(self._head)
        if room > 0 and not self._shed:
            self._head += data[:room]
            self.total += min(room, len(data))
            data = data[room:]
        if data:
            self._append_tail(data)

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Return at most `limit` bytes from `offset` on, and where they start: later if some of them were dropped."""
        if offset < len(self._head):
            data = bytes(self._head[offset : offset + limit])
            if offset + len(data) == len(self._head) == self.tail_start:
                data += self._read_tail(len(self._head), limit - len(data))
            return offset, data
        offset = min(max(offset, self.tail_start), self.total)
        return offset, self._read_tail(offset, limit)

    def ends(self, head: int, tail: int) -> tuple[bytes, bytes]:
        """Return the first `head` and the last `tail` bytes; if everything fits, all of it as the first part."""
        if self.total <= head + tail and self.kept == self.total:
            return self.read(0, self.total)[1], b""
        first = bytes(self._head[:head])
        complete = self.kept == self.total
        start = max(len(first), self.total - tail, 0 if complete else self.tail_start)
        return first, self.read(start, tail)[1]

    def shed(self) -> None:
        """Free the kept bytes; offsets and the total stay."""
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
