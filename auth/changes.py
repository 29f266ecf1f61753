"""Notifications about revoked access, from the stores that change credentials to the caches that rely on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Access that may have been revoked in an organisation.

    Attributes:
        org_id: The organisation.
        user_id: The member whose membership changed; empty if a key changed.
        key_id: The key that changed; empty if a membership changed.
    """

    org_id: str
    user_id: str = ""
    key_id: str = ""


class Changes:
    """Notifies every subscriber in this process of each change, before the call that made the change returns."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Change], None]] = []

    def subscribe(self, subscriber: Callable[[Change], None]) -> None:
        """Call the subscriber with every change from now on; it must neither block nor raise."""
        self._subscribers.append(subscriber)

    def publish(self, change: Change) -> None:
        """Notify all subscribers of a change."""
        for subscriber in self._subscribers:
            subscriber(change)
