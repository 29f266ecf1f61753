"""How often somebody may call: each credential, each address whose credentials are refused, each that registers."""

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
    """What is left of a limit.

    Attributes:
        limit: Calls in a window; 0 if there is no limit.
        remaining: Calls left in this one.
        reset_s: Whole seconds until the next one, at least 1.
        passed: Whether this call was within the limit.
    """

    limit: int = 0
    remaining: int = 0
    reset_s: int = 1
    passed: bool = True

    def headers(self) -> list[tuple[bytes, bytes]]:
        """For the answer: what was allowed, what is left, and when it begins anew."""
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
    """Counts in fixed windows. No method waits for anything outside."""

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
        """Limits; each may be 0 for none.

        Args:
            counts: Where calls are counted; several servers share them by an `Exchange`.
            requests: Calls of one credential in a window.
            window_s: Seconds of that window.
            refusals_per_minute: Refused credentials of one address, after which only known good ones are looked at.
            registrations_per_hour: Registrations from one address.
            clock: Epoch milliseconds; the one of the counts.
        """
        self._clock = clock
        self._calls = Counts(clock=clock) if counts is None else counts
        # Apart, and this server's alone: a flood of addresses costs no caller a counter and the store no byte.
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

    async def shut(self, address: str) -> int:
        """For how many seconds no unknown credential of that address is looked at; 0 if it is."""
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
