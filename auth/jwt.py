"""JSON web tokens: whether one is good now, and whom it is about."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any, cast

import jwt

from .clock import Clock, now_ms
from .errors import InvalidAccount
from .jwks import ALGORITHMS, Jwks

MAX_BYTES = 16 * 1024
SHORTEST_SECRET = 32
_LEEWAY_S = 30
_SHARED = "HS256"
_PUBLIC = frozenset(name for names in ALGORITHMS.values() for name in names)


class TokenRefused(Exception):
    """The token is not good; the message says why and never repeats it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a good token says.

    Attributes:
        subject: Whom it is about, as its issuer calls them; empty if it does not say.
        email: An address that the issuer has verified; empty without one.
        expires_ms: From when on it is refused, in epoch milliseconds.
    """

    subject: str
    email: str
    expires_ms: int


class Tokens:
    """Checks tokens by a shared secret (HS256), by an identity provider's keys, or by either."""

    def __init__(
        self,
        *,
        secret: str = "",
        jwks: Jwks | None = None,
        issuer: str = "",
        audience: str = "",
        clock: Clock = now_ms,
    ) -> None:
        """A check.

        Args:
            secret: For HS256, at least 32 bytes; empty if there is none.
            jwks: The provider's keys.
            issuer: What `iss` must be; empty for any.
            audience: What `aud` must have; empty for any.
            clock: Epoch milliseconds.

        Raises:
            InvalidAccount: The secret is too short, or there is neither secret nor provider.
        """
        if secret and len(secret.encode()) < SHORTEST_SECRET:
            raise InvalidAccount(f"the JWT secret has less than {SHORTEST_SECRET} bytes: make one with openssl rand")
        if not secret and jwks is None:
            raise InvalidAccount("tokens need a secret or a JWKS address")
        self._secret = secret
        self._jwks = jwks
        self._issuer = issuer or None
        self._audience = audience or None
        self._clock = clock

    async def check(self, token: str) -> Claims:
        """What a token says.

        Raises:
            TokenRefused: It is not good.
            JwksUnavailable: It cannot be checked now.
        """
        algorithm, kid = _header(token)
        key = await self._key(algorithm, kid)
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                # Times are checked below: by this server's clock, and whatever they are written as.
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": self._audience is not None,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError:
            raise TokenRefused("its signature is wrong") from None
        except jwt.InvalidIssuerError:
            raise TokenRefused("its issuer is another one") from None
        except jwt.InvalidAudienceError:
            raise TokenRefused("it is meant for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise TokenRefused(f"it has no {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenRefused("it cannot be read") from None
        return self._claims(payload)

    async def _key(self, algorithm: str, kid: str) -> Any:
        if algorithm == _SHARED and self._secret:
            return self._secret
        # A public key is never taken for a secret: which kind an algorithm needs is decided before any is looked up.
        if algorithm in _PUBLIC and self._jwks is not None:
            key = await self._jwks.key(kid, algorithm)
            if key is None:
                raise TokenRefused("it is signed with a key that the identity provider does not have")
            return key
        raise TokenRefused("its algorithm is not accepted here")

    def _claims(self, payload: dict[str, Any]) -> Claims:
        now_s = self._clock() / 1000
        expires_s = _seconds(payload, "exp")
        if expires_s is None:
            raise TokenRefused("it has no exp: tokens that never end are not taken")
        if now_s >= expires_s:
            raise TokenRefused("it has expired: get a new one")
        for name in ("nbf", "iat"):
            if (_seconds(payload, name) or 0) > now_s + _LEEWAY_S:
                raise TokenRefused(f"its {name} is in the future: check the issuer's clock")
        subject, email = payload.get("sub"), payload.get("email")
        verified = payload.get("email_verified") is True
        return Claims(
            subject=subject if isinstance(subject, str) else "",
            email=email if isinstance(email, str) and verified else "",
            expires_ms=int(min(expires_s, 2**53) * 1000),
        )


def _header(token: str) -> tuple[str, str]:
    """Algorithm and key id, before anything costly is done."""
    if len(token) > MAX_BYTES:
        raise TokenRefused(f"it has more than {MAX_BYTES} characters")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts[:2]):
        raise TokenRefused("it is no signed token")
    try:
        text = base64.b64decode(parts[0] + "=" * (-len(parts[0]) % 4), altchars=b"-_", validate=True)
        header: object = json.loads(text)
    except (ValueError, RecursionError):
        raise TokenRefused("its header cannot be read") from None
    if not isinstance(header, dict):
        raise TokenRefused("its header cannot be read")
    fields = cast("dict[str, object]", header)
    algorithm, kid = fields.get("alg"), fields.get("kid", "")
    if not isinstance(algorithm, str) or not isinstance(kid, str):
        raise TokenRefused("its header cannot be read")
    if "crit" in fields:
        raise TokenRefused("its header demands extensions that are not known here")
    return algorithm, kid


def _seconds(payload: dict[str, Any], name: str) -> float | None:
    """A time of a token, in epoch seconds; None if it has none."""
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRefused(f"its {name} is no time")
    return min(float(value), float(2**53)) if isinstance(value, float) or abs(value) < 2**62 else float(2**53)
