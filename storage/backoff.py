"""Backoff with jitter for optimistic updates: when many writers change one document, all of them get through."""

from __future__ import annotations

from random import SystemRandom

import anyio

_MIN_S = 0.002
_MAX_S = 30.0
_random = SystemRandom()


class Backoff:
    """Pauses between the attempts of one update. Create it right before the first attempt.

    The pause is random, so that writers come one after the other instead of all at once again. Its upper bound grows
    with the duration of an attempt and with the number of failed ones: however many writers there are and however slow
    the store is, the pauses reach a length at which most attempts succeed. Without them, an update takes as many
    attempts as there are writers, and the unlucky ones never succeed.

    Attributes:
        failed: Attempts that lost against another writer.
    """

    def __init__(self) -> None:
        self.failed = 0
        self._began = anyio.current_time()

    async def wait(self) -> None:
        """Count the last attempt as failed, and sleep until it is time for the next one."""
        self.failed += 1
        took_s = max(_MIN_S, anyio.current_time() - self._began)
        await anyio.sleep(_random.uniform(0, min(_MAX_S, took_s * 2 * self.failed)))
        self._began = anyio.current_time()
