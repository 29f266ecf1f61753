"""The keys of an identity provider, from its JWKS address: fetched when needed, kept through its failures."""

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
"""What each type of key may sign with; secrets shared with the provider (`oct`) are not taken from a public place."""

_log = structlog.get_logger(__name__)


class JwksUnavailable(Exception):
    """No keys are held, and the provider gives none now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    kid: str
    algorithms: frozenset[str]
    key: Any


class Jwks:
    """The keys behind an address. One fetch at a time; the others go on with what is held."""

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nothing is fetched yet.

        Args:
            url: https, or http on loopback.
            monotonic: Seconds that never go back.

        Raises:
            InvalidAccount: The address is another one.
        """
        parts = urlsplit(url)
        local = parts.hostname in _LOOPBACK
        if not parts.hostname or parts.scheme not in ({"https", "http"} if local else {"https"}):
            raise InvalidAccount("the JWKS address must be https, or http on loopback")
        self._url = url
        self._through_proxy = not local
        self._monotonic = monotonic
        self._lock = anyio.Lock()
        self._keys: tuple[_Key, ...] = ()
        self._fetched_s = float("-inf")
        self._tried_s = float("-inf")

    async def key(self, kid: str, algorithm: str) -> Any | None:
        """The public key for a token's header, in the form that PyJWT takes; None if the provider has no such key.

        Args:
            kid: As the token names it; empty if it names none, which is enough if only one key fits.
            algorithm: As the token names it.

        Raises:
            JwksUnavailable: It cannot be known now.
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
        """Fetch the keys, unless that was tried lately, or is being tried while old ones can be used."""
        if self._held() if self._lock.locked() else self._age(self._tried_s) < again_s:
            return
        async with self._lock:
            if self._age(self._tried_s) < again_s:
                return  # somebody else was faster
            self._tried_s = self._monotonic()
            try:
                with anyio.fail_after(_DEADLINE_S):
                    self._keys = _parsed(await self._fetch())
                self._fetched_s = self._monotonic()
            except (httpx2.HTTPError, TimeoutError, ValueError, RecursionError) as error:
                _log.warning("JWKS not fetched", error=f"{type(error).__name__}: {error}"[:200])

    async def _fetch(self) -> bytes:
        # A client for each fetch: there are few, and a kept connection would be stale by the next one.
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
        raise ValueError("no object with a list `keys`")  # noqa: TRY004 -- as any other answer that is no key set
    keys = tuple(key for entry in cast("list[object]", entries) if (key := _usable(entry)) is not None)
    if not keys:
        raise ValueError("no usable key")
    return keys


def _usable(entry: object) -> _Key | None:
    """A key that may sign tokens; None for any other."""
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
