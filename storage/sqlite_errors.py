"""Translation of SQLite's errors to the store's errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .errors import (
    DuplicateKey,
    InvalidDocument,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

_HELD = "is locked by another program; stop that program, or try again"
_KINDS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_FULL: (StoreFull, "has no space left; free disk space"),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "cannot be written; check its owner, its mode and how it is mounted"),
    sqlite3.SQLITE_PERM: (StoreReadOnly, "cannot be opened; check its owner and its mode"),
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, "is damaged; restore it from a backup"),
    sqlite3.SQLITE_NOTADB: (StoreCorrupt, "is not a store; restore it from a backup, or move it away to start anew"),
    sqlite3.SQLITE_BUSY: (StoreUnavailable, _HELD),
    sqlite3.SQLITE_LOCKED: (StoreUnavailable, _HELD),
    sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, "cannot be opened; check that its directory exists"),
    sqlite3.SQLITE_IOERR: (StoreUnavailable, "cannot be read or written; check the disk"),
}


def translated(path: Path, error: sqlite3.Error) -> StoreError:
    """Translate an error of SQLite to an error of the store."""
    code: int = getattr(error, "sqlite_errorcode", 0) or 0
    if code in {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}:
        return _duplicate(str(error))
    if isinstance(error, sqlite3.DataError):
        return InvalidDocument(f"The document is too large for the store: {error}")
    # The low byte is the primary error code, the rest extends it.
    kind, text = _KINDS.get(code & 0xFF, (StoreError, "failed"))
    return kind(f"The store {path} {text} ({error})")


def _duplicate(text: str) -> DuplicateKey:
    # "UNIQUE constraint failed: users.id" for the primary key, "...: index 'users__by_email'" for our indexes.
    name = text.rpartition(": ")[2]
    if name.startswith("index "):
        collection, _, index = name.removeprefix("index ").strip("'").partition("__")
        return DuplicateKey(collection, index)
    return DuplicateKey(name.partition(".")[0], "_id")
