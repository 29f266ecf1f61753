"""Who a request comes from, once its key was checked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller.

    Attributes:
        org_id: The organisation that owns what the caller makes.
        user_id: Who created the key.
        key_id: The key's id, never the key.
    """

    org_id: str
    user_id: str
    key_id: str
