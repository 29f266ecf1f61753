"""Rate limits: calls per credential, refused credentials per address, and registrations per address."""

from __future__ import annotations

import math
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerSecond

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
        self._per_caller = _item(requests, window_s, "calls")
        self._per_guesser = _item(refusals_per_minute, _MINUTE_S, "refusals")
        self._per_newcomer = _item(registrations_per_hour, _HOUR_S, "registrations")

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
        item = self._per_guesser
        if item is None or not len(self._strangers):
            return 0
        count, end_ms = self._strangers.current(item.key_for(address))
        return 0 if count < item.amount else self._seconds_until(end_ms)

    def _hit(self, counts: Counts, item: RateLimitItem | None, who: str) -> Allowance:
        if item is None:
            return _UNLIMITED
        # The library's strategy would need three calls for what `hit` returns in one.
        count, end_ms = counts.hit(item.key_for(who), item.get_expiry())
        return Allowance(
            limit=item.amount,
            remaining=max(0, item.amount - count),
            reset_s=self._seconds_until(end_ms),
            passed=count <= item.amount,
        )

    def _seconds_until(self, epoch_ms: int) -> int:
        return max(1, math.ceil((epoch_ms - self._clock()) / 1000))


def _item(amount: int, window_s: int, namespace: str) -> RateLimitItem | None:
    return RateLimitItemPerSecond(amount, window_s, namespace) if amount > 0 else None
