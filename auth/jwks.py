"""The public keys of an identity provider, from its JWKS URL: fetched when needed, cached while it fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
import structlog

from .errors import InvalidAccount

FRESH_S = 600.0
KEPT_S = 3600.0
UNKNOWN_AGAIN_S = 30.0
_FAILED_AGAIN_S = 5.0
_DEADLINE_S = 5.0
_MAX_BYTES = 256 * 1024
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MIN_RSA_BITS = 2048

ALGORITHMS = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "EC": frozenset({"ES256", "ES384", "ES512"}),
    "OKP": frozenset({"EdDSA"}),
}
"""The algorithms of each key type. Shared secrets (`oct`) are left out: a public URL must not provide them."""

_log = structlog.get_logger(__name__)


class JwksUnavailable(Exception):
    """No keys are cached, and the provider does not return any now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    kid: str
    algorithms: frozenset[str]
    key: Any


class Jwks:
    """The keys of a JWKS URL. Only one fetch runs at a time; other callers use the cached keys meanwhile."""

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Create the cache, without fetching anything yet.

        Args:
            url: An https URL, or http on loopback.
            monotonic: Monotonic clock in seconds.

        Raises:
            InvalidAccount: The URL is of another kind.
        """
        parts = urlsplit(url)
        local = parts.hostname in _LOOPBACK
        if not parts.hostname or parts.scheme not in ({"https", "http"} if local else {"https"}):
            raise InvalidAccount("the JWKS URL must be https, or http on loopback")
        self._url = url
        self._through_proxy = not local
        self._monotonic = monotonic
        self._lock = anyio.Lock()
        self._keys: tuple[_Key, ...] = ()
        self._fetched_s = float("-inf")
        self._tried_s = float("-inf")

    async def key(self, kid: str, algorithm: str) -> Any | None:
        """Find the public key for a token's header, as PyJWT takes it; None if the provider has no such key.

        Args:
            kid: The key id in the token's header; empty if missing, which works if only one key fits.
            algorithm: The algorithm in the token's header.

        Raises:
            JwksUnavailable: The keys cannot be fetched now, and none are cached.
        """
        if self._age(self._fetched_s) >= FRESH_S:
            await self._refresh(again_s=UNKNOWN_AGAIN_S if self._held() else _FAILED_AGAIN_S)
        found = self._find(kid, algorithm)
        if found is None and self._held():
            await self._refresh(again_s=UNKNOWN_AGAIN_S)
            found = self._find(kid, algorithm)
        if found is None and not self._held():
            raise JwksUnavailable("the identity provider's keys cannot be fetched")
        return found

    def _find(self, kid: str, algorithm: str) -> Any | None:
        if not self._held():
            return None
        fitting = [it for it in self._keys if algorithm in it.algorithms and kid in {"", it.kid}]
        return fitting[0].key if len(fitting) == 1 or (kid and fitting) else None

    def _held(self) -> bool:
        return self._age(self._fetched_s) < KEPT_S

    def _age(self, since_s: float) -> float:
        return self._monotonic() - since_s

    async def _refresh(self, *, again_s: float) -> None:
        """Fetch the keys, unless that was tried recently, or another fetch runs while cached keys can be used."""
        if self._held() if self._lock.locked() else self._age(self._tried_s) < again_s:
            return
        async with self._lock:
            if self._age(self._tried_s) < again_s:
                return  # another caller fetched them meanwhile
            self._tried_s = self._monotonic()
            try:
                with anyio.fail_after(_DEADLINE_S):
                    self._keys = _parsed(await self._fetch())
                self._fetched_s = self._monotonic()
            except (httpx2.HTTPError, TimeoutError, ValueError, RecursionError) as error:
                _log.warning("JWKS not fetched", error=f"{type(error).__name__}: {error}"[:200])

    async def _fetch(self) -> bytes:
        # A client for each fetch: fetches are rare, and a pooled connection would be stale by the next one.
        body = bytearray()
        async with (
            httpx2.AsyncClient(follow_redirects=False, timeout=_DEADLINE_S, trust_env=self._through_proxy) as client,
            client.stream("GET", self._url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}")
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes")
        return bytes(body)


def _parsed(body: bytes) -> tuple[_Key, ...]:
    document: object = json.loads(body)
    entries = cast("dict[str, object]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not an object with a list `keys`")  # noqa: TRY004 -- handled as any other invalid answer
    keys = tuple(key for entry in cast("list[object]", entries) if (key := _usable(entry)) is not None)
    if not keys:
        raise ValueError("no usable key")
    return keys


def _usable(entry: object) -> _Key | None:
    """Parse an entry of a key set; None if it cannot sign tokens."""
    if not isinstance(entry, dict):
        return None
    fields = cast("dict[str, Any]", entry)
    algorithms = ALGORITHMS.get(str(fields.get("kty")), frozenset[str]())
    if "alg" in fields:
        algorithms &= {str(fields["alg"])}
    if not algorithms or fields.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(fields, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if fields["kty"] == "RSA" and key.key_size < _MIN_RSA_BITS:
        return None
    return _Key(kid=str(fields.get("kid", "")), algorithms=algorithms, key=key)
