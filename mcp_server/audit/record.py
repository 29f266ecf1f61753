"""One call as the audit keeps it: a value, its document in the store, and the indexes by which records are found."""

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
    """One call, or several alike that were refused in short order.

    Attributes:
        id: Sorts by the time at which the call ended.
        org_id: The organisation of the caller; empty where nobody is known.
        at_ms: When the call began, epoch milliseconds.
        user_id, key_id: Who called, and with which key (its id); empty if unknown.
        method: How the caller proved to be who it is: key, jwt or local; empty if unknown.
        address: Of the caller's host; `many` for refusals that were summed up over addresses.
        surface: Which door was used.
        action: The tool, or the action of a REST route; a bounded set of names.
        sandbox: Its id if that became known, else the id or name as the caller gave it; may be empty.
        decision: `refused` is the caller's fault or for want of a right, `failed` the server's or the sandbox's.
        status: HTTP status of the answer; 101 for an accepted WebSocket, 0 if there was no answer.
        reason: Why it was not allowed or what failed; empty else.
        duration_ms: Milliseconds from the beginning to the end of the answer.
        exit_code: Of the command that the call ran; -1 for none.
        arguments: What was asked for as JSON text, cut, without secrets.
        request_id: As in the answer and the logs.
        count: How many calls the record stands for.
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
        """The record as the store keeps it."""
        # Not `asdict`, which copies every value, and takes longer than all the rest of keeping a record.
        return {"_id": self.id, "version": 1, **{name: getattr(self, name) for name in _STORED}}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The record from what the store keeps."""
        return cls(id=document["_id"], **{name: document[name] for name in _STORED if name in document})


_STORED = tuple(field.name for field in fields(AuditRecord) if field.name != "id")
