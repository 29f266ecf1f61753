"""Signatures of URLs and cookies that open a private port until they expire."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Literal

from auth.key_file import read_key, write_key

if TYPE_CHECKING:
    from pathlib import Path

    from vmm.sandboxes.published import PublishedPort

Kind = Literal["url", "cookie"]

_FILE = "port-secret"
_BYTES = 32
_FORM = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


def port_secret(data: Path) -> bytes:
    """Read the secret that signs URLs from the data directory, or create it at the first call. Blocks on the disk.

    Raises:
        KeyFileError: The file cannot be read or written.
    """
    path = data / _FILE
    text = read_key(path)
    if not text:
        text = secrets.token_hex(_BYTES)
        write_key(path, text)
    return text.encode()


class Tokens:
    """Signs and checks tokens: each is for one publication of one port of one sandbox, as URL or as cookie.

    Args:
        secret: The key of the signatures.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, kind: Kind, sandbox_id: str, published: PublishedPort, *, expires_s: int) -> str:
        """Return a token that is valid until a second since the epoch."""
        return f"{expires_s}.{self._signature(kind, sandbox_id, published, expires_s)}"

    def expiry_s(self, kind: Kind, token: str, sandbox_id: str, published: PublishedPort, *, now_ms: int) -> int:
        """Return the second since the epoch at which a token expires; 0 if it is not valid."""
        found = _FORM.fullmatch(token)
        if found is None:
            return 0
        expires_s = int(found[1])
        good = hmac.compare_digest(found[2], self._signature(kind, sandbox_id, published, expires_s))
        return expires_s if good and now_ms < expires_s * 1000 else 0

    def _signature(self, kind: Kind, sandbox_id: str, published: PublishedPort, expires_s: int) -> str:
        text = f"{kind} {sandbox_id} {published.port} {published.nonce} {expires_s}"
        return base64.urlsafe_b64encode(hmac.digest(self._secret, text.encode(), hashlib.sha256)).rstrip(b"=").decode()
