"""Clocks that stand still until a test moves them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Clocks:
    """Epoch milliseconds and monotonic seconds, which stand still until a test moves them."""

    ms: int = 1_700_000_000_000
    s: float = 100.0

    def epoch(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.s

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)
        self.s += seconds
