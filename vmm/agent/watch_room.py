"""How many directories and names the watches of a sandbox may have together."""

from __future__ import annotations

from .inotify import WatchLimitError
from .refusals import GUEST

MOST_DIRECTORIES = 10_000
MOST_NAMES = 100_000
"""They take about 15 MB of memory."""


class Share:
    """What one watch has.

    Attributes:
        directories: How many it watches.
        names: How many it knows.
    """

    def __init__(self) -> None:
        self.directories = 0
        self.names = 0


class Room:
    """What all watches have together.

    Attributes:
        shares: What each of them has.
    """

    def __init__(self) -> None:
        self.shares: list[Share] = []

    def check_directories(self) -> None:
        """Refuse one more directory if there are too many."""
        if sum(share.directories for share in tuple(self.shares)) >= MOST_DIRECTORIES:
            raise WatchLimitError(
                GUEST, f"the watches of a sandbox have at most {MOST_DIRECTORIES} directories: watch a smaller one"
            )

    def check_names(self) -> None:
        """Refuse one more name if there are too many."""
        if sum(share.names for share in tuple(self.shares)) >= MOST_NAMES:
            raise WatchLimitError(
                GUEST, f"the watches of a sandbox have at most {MOST_NAMES} files: watch a smaller directory"
            )
