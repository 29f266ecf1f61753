"""Word of credentials that may have stopped being good, from who changes them to who relies on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something was taken away in an organisation.

    Attributes:
        org_id: Where.
        user_id: Whose membership it is about; empty if it is about a key.
        key_id: Which key it is about; empty if it is about a membership.
    """

    org_id: str
    user_id: str = ""
    key_id: str = ""


class Changes:
    """Tells every subscriber of each change, in this process and before the change's call returns."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Change], None]] = []

    def subscribe(self, subscriber: Callable[[Change], None]) -> None:
        """Call this with every change from now on; it must neither wait nor raise."""
        self._subscribers.append(subscriber)

    def tell(self, change: Change) -> None:
        """Pass a change on."""
        for subscriber in self._subscribers:
            subscriber(change)
