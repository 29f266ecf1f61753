"""The audit record of a call, its document in the store, and the indexes of the collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from storage.collection import CollectionSpec, Index

Surface = Literal["mcp", "rest"]
Decision = Literal["allowed", "refused", "failed"]

NO_EXIT_CODE = -1

BY_ORG = Index(name="by_org", fields=("org_id", "at_ms"))
BY_ORG_SANDBOX = Index(name="by_org_sandbox", fields=("org_id", "sandbox", "at_ms"))
BY_ORG_KEY = Index(name="by_org_key", fields=("org_id", "key_id", "at_ms"))
BY_TIME = Index(name="by_time", fields=("at_ms",))

AUDIT = CollectionSpec(name="audit", indexes=(BY_ORG, BY_ORG_SANDBOX, BY_ORG_KEY, BY_TIME))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """A call, or several identical calls that were refused within a short time.

    Attributes:
        id: Id of the record; sorts by the end of the call.
        org_id: The organisation of the caller; empty if unknown.
        at_ms: Start of the call, epoch milliseconds.
        user_id, key_id: Ids of the user and of the key; empty if unknown.
        method: How the caller authenticated: key, jwt or local; empty if unknown.
        address: Address of the caller's host; `many` for refusals that were aggregated over addresses.
        surface: The interface that was used.
        action: The tool, or the action of a REST route; a bounded set of names.
        sandbox: The sandbox's id if known, otherwise the id or name that the caller gave; may be empty.
        decision: `refused` if the caller is at fault or lacks a permission, `failed` if the server or the sandbox is.
        status: HTTP status of the answer; 101 for an accepted WebSocket, 0 if there was no answer.
        reason: Why the call was refused or failed; otherwise empty.
        duration_ms: Milliseconds until the end of the answer.
        exit_code: Exit code of the command that the call ran; -1 for none.
        arguments: The arguments as JSON text, truncated and redacted.
        request_id: The request id in the answer and the logs.
        count: The number of calls that the record stands for.
    """

    id: str
    org_id: str
    at_ms: int
    user_id: str
    key_id: str
    method: str
    address: str
    surface: Surface
    action: str
    sandbox: str
    decision: Decision
    status: int
    reason: str
    duration_ms: int
    exit_code: int = NO_EXIT_CODE
    arguments: str = "{}"
    request_id: str = ""
    count: int = 1

    def document(self) -> dict[str, Any]:
        """Convert the record to its document in the store."""
        # Not `asdict`, which copies every value and would dominate the cost of a record.
        return {"_id": self.id, "version": 1, **{name: getattr(self, name) for name in _STORED}}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Convert a document of the store to a record."""
        return cls(id=document["_id"], **{name: document[name] for name in _STORED if name in document})


_STORED = tuple(field.name for field in fields(AuditRecord) if field.name != "id")
