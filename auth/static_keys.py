"""Keys from the configuration: texts that speak for one principal, held as digests, never in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from .errors import InvalidAccount
from .principal import Principal

SHORTEST = 24
_LONGEST = 512


class StaticKeys:
    """A fixed set of keys. Each is limited and audited on its own, under an id that is made of its digest."""

    def __init__(self, texts: Iterable[str], principal: Principal) -> None:
        """Keys that speak for a principal.

        Args:
            texts: The keys, visible ASCII of at least 24 characters each.
            principal: Whom they speak for; its `key_id` does not matter.

        Raises:
            InvalidAccount: One is too short or has other characters; the message does not repeat it.
        """
        self._by_digest: dict[bytes, Principal] = {}
        for number, text in enumerate(texts, start=1):
            if not SHORTEST <= len(text) <= _LONGEST or not text.isascii() or not text.isprintable() or " " in text:
                raise InvalidAccount(
                    f"configured key number {number} must have {SHORTEST} to {_LONGEST} visible ASCII characters"
                )
            digest = _digest(text)
            self._by_digest[digest] = replace(principal, key_id=f"configured-{digest.hex()[:12]}", method="key")

    def __len__(self) -> int:
        return len(self._by_digest)

    def check(self, text: str) -> Principal | None:
        """Whom a text speaks for; None if it is none of the keys."""
        if not self._by_digest or not SHORTEST <= len(text) <= _LONGEST:
            return None
        return self._by_digest.get(_digest(text))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
