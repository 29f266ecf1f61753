"""MongoDB's failures as the store's own errors, and addresses without what is secret in them."""

from __future__ import annotations

import re
from typing import Any, cast

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from .errors import (
    DuplicateKey,
    InvalidDocument,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from .shown import shown

Failure = PyMongoError | BSONError
FAILURES = (PyMongoError, BSONError)

_DUPLICATE_KEY = 11000
_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = (18, 8000)
_OUT_OF_DISK_SPACE = 14031
# Host unreachable or not found, lock time-outs, network and other time-outs, shutdown, elections, interruptions,
# a write conflict, a majority that is not there, a cursor that is gone.
_PASSING = frozenset(
    (6, 7, 24, 43, 46, 50, 64, 89, 91, 112, 134, 189, 237, 262, 9001, 10058, 10107, 11600, 11601, 11602, 13435, 13436)
)
_INDEX = re.compile(r"index: (?:\S*\.\$)?(\w+)")


def redacted(uri: str) -> str:
    """The address for messages: scheme and hosts, without user, password, database and options."""
    scheme, found, rest = uri.partition("://")
    # An unescaped @ or / in the password would make any finer cut show a part of it.
    hosts = rest.rpartition("@")[2].partition("?")[0].partition("/")[0]
    return f"{scheme}://{hosts}" if found and scheme in {"mongodb", "mongodb+srv"} else "(no MongoDB address)"


def translated(where: str, error: Failure, *, writing: bool) -> StoreError:
    """The store's error for one of the driver's.

    Args:
        where: The address, redacted.
        error: The driver's.
        writing: What failed was a write.
    """
    if isinstance(error, BSONError):
        return InvalidDocument(f"The document is too large for the store: {shown(str(error))}")
    if isinstance(error, DuplicateKeyError):
        return duplicate(error)
    if isinstance(error, OperationFailure):
        return _refused(where, error, writing)
    if isinstance(error, InvalidOperation):
        return StoreUnavailable(f"The store at {where} was closed")
    if isinstance(error, ConfigurationError):
        return StoreError(f"The store at {where} cannot be used: {shown(str(error))}")
    return StoreUnavailable(
        f"The store at {where} does not answer: {shown(str(error))}; check that MongoDB runs and can be reached"
    )


def unsure(error: Failure) -> bool:
    """Whether a write that failed so may have been applied all the same, or may be yet."""
    if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError):
        return False
    if isinstance(error, ConnectionFailure | WriteConcernError | ExecutionTimeout):
        return True
    return isinstance(error, OperationFailure) and error.code in _PASSING


def duplicate(error: DuplicateKeyError) -> DuplicateKey:
    """The error for a value that is another document's."""
    # "E11000 duplicate key error collection: casemate.users index: by_email dup key: ..."; the rest is not shown.
    text = str((error.details or {}).get("errmsg") or error)
    collection = re.search(r"collection: [^.\s]+\.(\S+)", text)
    index = _INDEX.search(text)
    name = index[1] if index else "_id_"
    return DuplicateKey(collection[1] if collection else "the collection", "_id" if name == "_id_" else name)


def there_already(error: BulkWriteError) -> list[int]:
    """The places of documents that were not inserted because their ids are taken, if that is all that went wrong.

    Raises:
        OperationFailure: What else did.
    """
    details = cast("dict[str, Any]", error.details)
    for concern in details.get("writeConcernErrors", ()):
        raise WriteConcernError(concern.get("errmsg", ""), concern.get("code"), concern)
    places: list[int] = []
    for failure in details.get("writeErrors", ()):
        text, code = str(failure.get("errmsg", "")), failure.get("code")
        if code != _DUPLICATE_KEY:
            raise OperationFailure(text, code, failure)
        taken = DuplicateKeyError(text, code, failure)
        if duplicate(taken).index != "_id":
            raise taken
        places.append(failure["index"])
    return places


def _refused(where: str, error: OperationFailure, writing: bool) -> StoreError:
    # The text of the server may quote the document; its name and number say enough.
    name = str((error.details or {}).get("codeName") or "error")
    reason = f"({name}, code {error.code})"
    if isinstance(error, WriteConcernError) or error.code in _PASSING:
        return StoreUnavailable(f"The store at {where} cannot do this now {reason}; try again")
    if error.code == _OUT_OF_DISK_SPACE:
        return StoreFull(f"The store at {where} has no room left {reason}; free disk space")
    if error.code in _AUTHENTICATION_FAILED:
        return StoreError(f"The store at {where} refuses the user or the password {reason}; check both")
    if error.code == _UNAUTHORIZED:
        kind = StoreReadOnly if writing else StoreError
        return kind(f"The store at {where} does not let its user do this {reason}; give the role readWrite")
    return StoreError(f"The store at {where} failed {reason}")
