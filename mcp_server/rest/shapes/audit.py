"""Types of audit records in answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.audit.record import Decision, Surface
from mcp_server.shapes import Timestamp


class AuditObject(TypedDict):
    """A call, or several identical ones that were refused."""

    id: str
    time: Timestamp
    orgId: str
    userId: str
    keyId: str
    method: str
    address: str
    surface: Surface
    action: str
    sandbox: str
    decision: Decision
    status: int
    reason: str
    durationMs: int
    exitCode: int | None
    arguments: Annotated[str, Field(description="JSON, shortened and without secrets.")]
    requestId: str
    count: int


class AuditPage(TypedDict):
    """Records, the newest first."""

    records: list[AuditObject]
    next: Annotated[str, Field(description="The cursor of the next page; empty on the last one.")]
