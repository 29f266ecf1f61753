"""What an archive that is unpacked from a file may contain at most, so that none can exhaust the sandbox."""

from __future__ import annotations

MAX_MEMBERS = 1_000_000
MAX_BYTES = 64 * 1024**3
"""Bytes of content."""
MAX_RATIO = 200
"""Bytes of content for each byte of the archive, beyond FREE_BYTES. Real data rarely exceeds 50; bombs exceed 1000."""
FREE_BYTES = 1024**3
"""Bytes of content up to which any ratio is allowed."""
MAX_AT_ONCE = 4
"""Archives that are made or unpacked at the same time; the memory that compression takes is bounded by it."""


class LimitError(Exception):
    """An archive exceeds a limit; the message names it."""


class Budget:
    """Counts what has been unpacked of one archive.

    Args:
        size: The archive's size in bytes.
    """

    def __init__(self, size: int) -> None:
        self._most = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))
        self._bytes = 0
        self._members = 0

    def member(self) -> None:
        """Count a member.

        Raises:
            LimitError: There are too many.
        """
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise LimitError(f"it has more than {MAX_MEMBERS} members")

    def take(self, count: int) -> None:
        """Count bytes of content, before they are written.

        Raises:
            LimitError: There are too many, or too many for the size of the archive.
        """
        self._bytes += count
        if self._bytes <= self._most:
            return
        if self._most == MAX_BYTES:
            raise LimitError(f"it has more than {MAX_BYTES} bytes of content")
        raise LimitError(f"its content is more than {FREE_BYTES} bytes and more than {MAX_RATIO} times its size")
