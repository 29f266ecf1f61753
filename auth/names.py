"""Names of people, organisations and keys, and e-mail addresses: one form for each, whatever was typed."""

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
    """A name as it is kept: trimmed, in Unicode's composed form (NFC).

    Control characters, and the marks that turn the direction of the text around them, are no part of a name.

    Args:
        field: What the message calls it.
        name: As it was given.

    Raises:
        InvalidAccount: It is empty, longer than 100 characters, or has characters that cannot be printed.
    """
    # Cut before anything is computed: composing a megabyte of marks takes its time.
    text = unicodedata.normalize("NFC", name[: 4 * MAX_NAME].strip()) if len(name) <= 4 * MAX_NAME else ""
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise InvalidAccount(f"{field} {name[:80]!a:.80}: give 1 to {MAX_NAME} printable characters")
    return text


def normalised(email: str) -> str:
    """An address as it is kept and compared: trimmed and in lower case.

    Only ASCII is taken, for look-alikes from other alphabets would pass as different people.

    Raises:
        InvalidAccount: It is no address.
    """
    address = email.strip().lower() if email.isascii() else ""
    if len(address) > _MAX_EMAIL or _EMAIL.fullmatch(address) is None:
        raise InvalidAccount(f"email {email[:80]!a:.80}: give an address such as name@example.org, in ASCII")
    return address
