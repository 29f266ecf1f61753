"""Many who change one document at the same time: of each round one gets through, and the others begin again."""

from __future__ import annotations

from random import SystemRandom

import anyio

_LEAST_S = 0.002
_MOST_S = 30.0
_random = SystemRandom()


class Contest:
    """One change that is tried until it gets through; to be made right before the first attempt.

    Between attempts is a pause, so that rivals come one after the other instead of all at once again. It is random,
    and grows with the time that an attempt takes and with the number of those that were lost: however many rivals there
    are, and however slow the store is, it comes to where most attempts succeed. Without it, each change costs as many
    attempts as there are rivals, and the unlucky never get through.

    Attributes:
        lost: Attempts that somebody else was faster than.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._began = anyio.current_time()

    async def again(self) -> None:
        """Count an attempt as lost and return when it is time for the next one."""
        self.lost += 1
        took_s = max(_LEAST_S, anyio.current_time() - self._began)
        await anyio.sleep(_random.uniform(0, min(_MOST_S, took_s * 2 * self.lost)))
        self._began = anyio.current_time()
