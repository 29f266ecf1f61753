"""The names of sessions: what their callers call them, and the sandboxes that they stand for."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from auth.static_keys import is_configured
from storage.shown import shown
from vmm.errors import InvalidInput

if TYPE_CHECKING:
    from auth.principal import Principal
    from vmm.sandboxes.sandbox import Sandbox

LONGEST = 256
LABELS = {"sandbox-api": "session"}
"""Of the sandboxes of all sessions."""
SESSION_ID = "SANDBOX_SESSION_ID"
"""The variable of a sandbox's environment that has the session's name, for its commands and for lists."""
_CONTAINER_ID = 12


def owner_of(who: Principal) -> str:
    """Return whose sessions a caller sees: the organisation's, or with a configured key those of that very key."""
    return who.key_id if is_configured(who.key_id) else who.org_id


def check_session_id(session_id: str) -> str:
    """Check the name of a session and return it.

    Raises:
        InvalidInput: It is empty, too long, or cannot be stored.
    """
    if not 1 <= len(session_id) <= LONGEST:
        raise InvalidInput(f"session_id must have 1 to {LONGEST} characters, got {len(session_id)}")
    if "\0" in session_id:
        raise InvalidInput(f"session_id must be without NUL characters, got {shown(session_id)}")
    try:
        session_id.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"session_id must be valid Unicode text, got {shown(session_id)}") from None
    return session_id


def sandbox_name(session_id: str) -> str:
    """Return the name of a session's sandbox. No two sessions have the same one, whatever characters they are named by.

    Raises:
        InvalidInput: See `check_session_id`.
    """
    return f"session-{_digest(session_id)}"


def volume_name(session_id: str) -> str:
    """Return the name of the volume that keeps a session's files, where they are to outlive its sandbox.

    Raises:
        InvalidInput: See `check_session_id`.
    """
    return f"workspace-{_digest(session_id)}"


def session_of(sandbox: Sandbox) -> str:
    """Return the session of a sandbox, as its caller named it; empty if it is not one."""
    return sandbox.env.get(SESSION_ID, "") if sandbox.labels.items() >= LABELS.items() else ""


def container_id(sandbox: Sandbox) -> str:
    """Return the 12 digits that stand for a sandbox where clients expect the id of a container."""
    # The beginning is the time, which sandboxes of one moment share.
    return sandbox.id[-_CONTAINER_ID:]


def _digest(session_id: str) -> str:
    digest = hashlib.sha256(check_session_id(session_id).encode()).digest()
    return base64.b32encode(digest[:25]).decode().lower()
