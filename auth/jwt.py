"""JSON Web Tokens: validation of signature, claims and times."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from typing import Any, cast

import jwt

from .clock import Clock, now_ms
from .errors import InvalidAccount
from .jwks import ALGORITHMS, Jwks

MAX_BYTES = 16 * 1024
SHORTEST_SECRET = 32
_LEEWAY_S = 30
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_SHARED = "HS256"
_PUBLIC = frozenset(name for names in ALGORITHMS.values() for name in names)


class TokenRefused(Exception):
    """The token is invalid; the message says why and never repeats the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The claims of a valid token.

    Attributes:
        subject: The user's id at the issuer; empty if missing.
        email: An e-mail address that the issuer has verified; empty if there is none.
        expires_ms: Expiry, in epoch milliseconds.
    """

    subject: str
    email: str
    expires_ms: int


class Tokens:
    """Validates tokens with a shared secret (HS256), with an identity provider's keys, or with either."""

    def __init__(
        self,
        *,
        secret: str = "",
        jwks: Jwks | None = None,
        issuer: str = "",
        audience: str = "",
        clock: Clock = now_ms,
    ) -> None:
        """Create a validator.

        Args:
            secret: The secret for HS256, at least 32 bytes; empty to refuse such tokens.
            jwks: The provider's keys; None to refuse tokens that are signed with a private key.
            issuer: The required `iss`; empty for any.
            audience: The required `aud`; empty for any.
            clock: Epoch milliseconds.

        Raises:
            InvalidAccount: The secret is too short, or there is neither a secret nor a provider.
        """
        if secret and len(secret.encode()) < SHORTEST_SECRET:
            raise InvalidAccount(
                f"the JWT secret must have at least {SHORTEST_SECRET} bytes, got {len(secret.encode())}: "
                "create one with openssl rand -hex 32"
            )
        if not secret and jwks is None:
            raise InvalidAccount("tokens need a JWT secret or a JWKS URL: set one of them")
        self._secret = secret
        self._jwks = jwks
        self._issuer = issuer or None
        self._audience = audience or None
        self._clock = clock

    async def check(self, token: str) -> Claims:
        """Validate a token and return its claims.

        Raises:
            TokenRefused: The token is invalid.
            JwksUnavailable: The token cannot be checked now.
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
                # Times are checked below: by this server's clock, and in whatever number format they are written.
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
            raise TokenRefused("its iss is not the issuer that this server accepts") from None
        except jwt.InvalidAudienceError:
            raise TokenRefused("its aud is not the audience of this server") from None
        except jwt.MissingRequiredClaimError as error:
            raise TokenRefused(f"it has no {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenRefused("it is malformed") from None
        return self._claims(payload)

    async def _key(self, algorithm: str, kid: str) -> Any:
        if algorithm == _SHARED and self._secret:
            return self._secret
        # The algorithm decides between secret and public key before any is looked up: otherwise an attacker could sign
        # a token with the public key as the secret.
        if algorithm in _PUBLIC and self._jwks is not None:
            key = await self._jwks.key(kid, algorithm)
            if key is None:
                raise TokenRefused("the identity provider does not have the key that signed it")
            return key
        raise TokenRefused("this server does not accept its algorithm")

    def _claims(self, payload: dict[str, Any]) -> Claims:
        now_s = self._clock() / 1000
        expires_s = _seconds(payload, "exp")
        if expires_s is None:
            raise TokenRefused("it has no exp: set an expiry time")
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
    """Read algorithm and key id from the header, before anything costly is done."""
    if len(token) > MAX_BYTES:
        raise TokenRefused(f"it has more than {MAX_BYTES} characters")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts[:2]):
        raise TokenRefused("it is not a signed token")
    if not _BASE64URL.fullmatch(parts[2]):
        # PyJWT takes padding, and skips what is no digit: one token would have many forms. See RFC 7515, section 2.
        raise TokenRefused("its signature is not base64url without padding")
    try:
        text = base64.b64decode(parts[0] + "=" * (-len(parts[0]) % 4), altchars=b"-_", validate=True)
        header: object = json.loads(text)
    except (ValueError, RecursionError):
        raise TokenRefused("its header is malformed") from None
    if not isinstance(header, dict):
        raise TokenRefused("its header is malformed")
    fields = cast("dict[str, object]", header)
    algorithm, kid = fields.get("alg"), fields.get("kid", "")
    if not isinstance(algorithm, str) or not isinstance(kid, str):
        raise TokenRefused("its header is malformed")
    if "crit" in fields:
        raise TokenRefused("its header requires extensions (crit) that this server does not know")
    return algorithm, kid


def _seconds(payload: dict[str, Any], name: str) -> float | None:
    """Read a time claim in epoch seconds; None if it is missing."""
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRefused(f"its {name} is not a time in epoch seconds")
    return min(float(value), float(2**53)) if isinstance(value, float) or abs(value) < 2**62 else float(2**53)
