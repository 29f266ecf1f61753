"""Many who change one document at the same time: of each round one gets through, and the others begin again."""

from __future__ import annotations

from random import SystemRandom

import anyio

_LEAST_S = 0.002
_MOST_S = 1.0
_random = SystemRandom()


async def step_aside(lost: int) -> None:
    """Pause before the next attempt, so that rivals come one after the other instead of all at once again.

    The pause is random and grows with the number of lost attempts: however many there are, and however slow the
    store is, it comes to where most attempts succeed. Without it, each write costs as many attempts as there are
    rivals, and the unlucky never get through.

    Args:
        lost: Attempts that were lost so far, 1 or more.
    """
    await anyio.sleep(_random.uniform(0, min(_MOST_S, _LEAST_S * 2**lost)))
