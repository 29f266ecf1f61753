"""Validation and normalisation of names and e-mail addresses."""

from __future__ import annotations

import re
import unicodedata

from .errors import InvalidAccount

MAX_NAME = 100
_MAX_EMAIL = 254
_EMAIL = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)


def clean_name(field: str, name: str) -> str:
    """Normalise a name: trimmed, in Unicode's composed form (NFC).

    Control characters and marks that change the direction of text are refused.

    Args:
        field: The field's name in the error message.
        name: The name as it was given.

    Raises:
        InvalidAccount: It is empty, longer than 100 characters, or has characters that are not printable.
    """
    # Checked for length first: composing a megabyte of combining marks takes long.
    text = unicodedata.normalize("NFC", name[: 4 * MAX_NAME].strip()) if len(name) <= 4 * MAX_NAME else ""
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise InvalidAccount(f"{field} must have 1 to {MAX_NAME} printable characters, got {name[:80]!a:.80}")
    return text


def normalised(email: str) -> str:
    """Normalise an e-mail address: trimmed and in lower case.

    Only ASCII is allowed, because look-alike letters of other alphabets would pass as different people.

    Raises:
        InvalidAccount: It is not an e-mail address.
    """
    address = email.strip().lower() if email.isascii() else ""
    if len(address) > _MAX_EMAIL or _EMAIL.fullmatch(address) is None:
        raise InvalidAccount(f"email must be an ASCII address such as name@example.org, got {email[:80]!a:.80}")
    return address
