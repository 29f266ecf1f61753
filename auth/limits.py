"""Rate limits: calls per credential, refused credentials per address, and registrations per address."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .clock import Clock, now_ms
from .counts import Counts
from .principal import Principal

_MINUTE_S = 60
_HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The state of a limit after a call.

    Attributes:
        limit: Calls allowed in a window; 0 if there is no limit.
        remaining: Calls left in the current window.
        reset_s: Whole seconds until the next window, at least 1.
        passed: Whether this call was within the limit.
    """

    limit: int = 0
    remaining: int = 0
    reset_s: int = 1
    passed: bool = True

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the RateLimit headers of the answer."""
        if not self.limit:
            return []
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset_s),
        ]


_UNLIMITED = Allowance()


@dataclass(frozen=True, slots=True)
class _Limit:
    """So many calls of one kind per window; 0 for any number."""

    amount: int
    window_s: int
    kind: str

    def key(self, who: str) -> str:
        """The name of a counter. Servers with other limits use other names, because they would count other windows."""
        return f"{self.kind}/{who}/{self.amount}/{self.window_s}"


class Limits:
    """Rate limits in fixed windows. No method waits for the store."""

    def __init__(
        self,
        counts: Counts | None = None,
        *,
        requests: int = 3000,
        window_s: int = 60,
        refusals_per_minute: int = 60,
        registrations_per_hour: int = 10,
        clock: Clock = now_ms,
    ) -> None:
        """Create the limits; 0 turns a limit off.

        Args:
            counts: The counters of calls; several servers share them through an `Exchange`.
            requests: Calls per credential in a window.
            window_s: Length of that window in seconds.
            refusals_per_minute: Refused credentials per address, after which only recently valid ones are checked.
            registrations_per_hour: Registrations per address.
            clock: Epoch milliseconds; the clock of the counters.
        """
        self._clock = clock
        self._calls = Counts(clock=clock) if counts is None else counts
        # Separate and not shared: a flood of addresses must not evict callers' counters or fill the store.
        self._strangers = Counts(clock=clock)
        self._per_caller = _Limit(requests, window_s, "calls")
        self._per_guesser = _Limit(refusals_per_minute, _MINUTE_S, "refusals")
        self._per_newcomer = _Limit(registrations_per_hour, _HOUR_S, "registrations")

    async def spend(self, principal: Principal) -> Allowance:
        """Count a call of a key, or of a user who calls without one."""
        return self._hit(self._calls, self._per_caller, principal.key_id or principal.user_id)

    async def register(self, address: str) -> Allowance:
        """Count a registration."""
        return self._hit(self._strangers, self._per_newcomer, address)

    async def refused(self, address: str) -> None:
        """Count a credential that was refused."""
        self._hit(self._strangers, self._per_guesser, address)

    async def blocked_s(self, address: str) -> int:
        """Return for how many seconds unknown credentials from an address stay blocked; 0 if they are not."""
        limit = self._per_guesser
        if limit.amount <= 0 or not len(self._strangers):
            return 0
        count, end_ms = self._strangers.current(limit.key(address))
        return 0 if count < limit.amount else self._seconds_until(end_ms)

    def _hit(self, counts: Counts, limit: _Limit, who: str) -> Allowance:
        if limit.amount <= 0:
            return _UNLIMITED
        count, end_ms = counts.hit(limit.key(who), limit.window_s)
        return Allowance(
            limit=limit.amount,
            remaining=max(0, limit.amount - count),
            reset_s=self._seconds_until(end_ms),
            passed=count <= limit.amount,
        )

    def _seconds_until(self, epoch_ms: int) -> int:
        return max(1, math.ceil((epoch_ms - self._clock()) / 1000))
