"""API keys from the configuration: they all stand for one principal and are never written to the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from .errors import InvalidAccount
from .principal import Principal

SHORTEST = 24
_LONGEST = 512
_PREFIX = "configured-"


class StaticKeys:
    """A fixed set of keys. Each is rate limited and audited separately, under an id derived from its digest."""

    def __init__(self, texts: Iterable[str], principal: Principal) -> None:
        """Create the set.

        Args:
            texts: The keys, each at least 24 visible ASCII characters.
            principal: The caller that they stand for; its `key_id` is ignored.

        Raises:
            InvalidAccount: A key is too short or has other characters; the message does not repeat it.
        """
        self._by_digest: dict[bytes, Principal] = {}
        for number, text in enumerate(texts, start=1):
            if not SHORTEST <= len(text) <= _LONGEST or not text.isascii() or not text.isprintable() or " " in text:
                raise InvalidAccount(
                    f"configured key number {number} must have {SHORTEST} to {_LONGEST} visible ASCII characters, "
                    f"got {len(text)} characters: openssl rand -hex 24 creates one"
                )
            digest = _digest(text)
            self._by_digest[digest] = replace(principal, key_id=f"{_PREFIX}{digest.hex()[:32]}", method="key")

    def __len__(self) -> int:
        return len(self._by_digest)

    def check(self, text: str) -> Principal | None:
        """Return the caller that a key stands for; None if it is not in the set."""
        if not self._by_digest or not SHORTEST <= len(text) <= _LONGEST:
            return None
        return self._by_digest.get(_digest(text))


def is_configured(key_id: str) -> bool:
    """Tell whether a principal's key is one from the configuration."""
    return key_id.startswith(_PREFIX)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
