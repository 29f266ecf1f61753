"""Tickets: one-time credentials for where a URL is the only place for one, as with WebSockets in a browser.

A ticket stands for the caller who asked for it, with exactly that caller's rights, for half a minute and one use. It
exists in this process alone: a server that shares its store with others accepts only its own.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .clock import Clock, now_ms
from .errors import InvalidAccount, TooManyTickets

if TYPE_CHECKING:
    from .authenticator import Verified

LIFETIME_S = 30
MOST_EACH = 100
"""Unused tickets of one caller."""
_MOST_PATH = 1000
_FORM = re.compile(r"ct_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A new ticket: the only time that its text is known.

    Attributes:
        text: The ticket itself.
        expires_ms: Expiry, in epoch milliseconds.
    """

    text: str = field(repr=False)
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issued:
    verified: Verified
    path: str
    expires_ms: int


class Tickets:
    """The unused tickets of a server, as digests."""

    def __init__(self, clock: Clock = now_ms) -> None:
        """Create an empty set.

        Args:
            clock: Epoch milliseconds.
        """
        self._clock = clock
        # By age, and so by expiry.
        self._issued: OrderedDict[bytes, _Issued] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, verified: Verified, path: str = "") -> Ticket:
        """Create a ticket.

        Args:
            verified: The caller that it stands for.
            path: The only path that it opens, decoded; empty for any.

        Raises:
            InvalidAccount: It is no path of the API.
            TooManyTickets: The caller has as many unused tickets as one may have.
        """
        if path and (not path.startswith("/api/") or len(path) > _MOST_PATH or "?" in path):
            raise InvalidAccount(
                f"path must be that of a WebSocket, such as /api/sandboxes/ID/pty, without a query, got {path[:80]!a}"
            )
        self._forget_expired()
        who = _caller(verified)
        if self._counts[who] >= MOST_EACH:
            raise TooManyTickets(
                f"you have {MOST_EACH} unused tickets, as many as you may have: use them, or wait {LIFETIME_S} s"
            )
        expires_ms = self._clock() + LIFETIME_S * 1000
        text = "ct_" + secrets.token_urlsafe(32)
        self._issued[_digest(text)] = _Issued(verified=verified, path=path, expires_ms=expires_ms)
        self._counts[who] += 1
        return Ticket(text=text, expires_ms=expires_ms)

    def redeem(self, text: str, path: str) -> Verified | None:
        """Use a ticket up; None if it is unknown, used, expired, or for another path, which uses it up, too.

        The caller's own credential may have been revoked since: the caller of this method checks that.

        Args:
            text: The ticket.
            path: The path of the request, decoded.
        """
        self._forget_expired()
        issued = self._pop(_digest(text))
        return issued.verified if issued is not None and issued.path in {"", path} else None

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._issued:
            digest, oldest = next(iter(self._issued.items()))
            if now < oldest.expires_ms:
                return
            self._pop(digest)

    def _pop(self, digest: bytes) -> _Issued | None:
        issued = self._issued.pop(digest, None)
        if issued is not None:
            who = _caller(issued.verified)
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]
        return issued


def is_ticket(text: str) -> bool:
    """Return whether a text has the format of a ticket."""
    return _FORM.fullmatch(text) is not None


def _caller(verified: Verified) -> str:
    return verified.principal.key_id or verified.principal.user_id


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
