"""`GET /api/audit`: the audit records, newest first."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from starlette.responses import JSONResponse

from auth.clock import Clock, now_ms
from auth.roles import Scope
from mcp_server.audit.record import NO_EXIT_CODE
from vmm.errors import Conflict, InvalidInput, NotFound

from ..audit.reader import Filter
from .body import WireModel, parse_query
from .contract import contract
from .endpoint import Endpoint
from .shapes.audit import AuditObject, AuditPage

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from mcp_server.audit.record import AuditRecord
    from vmm.sandboxes.sandbox import Sandbox

    from ..audit.reader import AuditReader

ALL = "*"
"""Lets the operator select every organisation."""

NOBODY = "-"
"""Lets the operator select calls without a known caller, such as those with a wrong key."""

_EPOCH = re.compile(r"[0-9]{1,15}")
_SPAN = re.compile(r"(\d{1,9})([smhd])")
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MOST_MS = 10**14
_SHOWN = 80

Find = Callable[[str, str], Awaitable["Sandbox"]]

Text = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class AuditQuery(WireModel):
    """The parameters of the route."""

    org: Text = ""
    sandbox: Text = ""
    key: Text = ""
    user: Text = ""
    action: Text = ""
    decision: Literal["allowed", "refused", "failed"] | None = None
    since: Text = ""
    until: Text = ""
    limit: int = Field(default=100, ge=1, le=1000)
    cursor: Text = ""


def audit_endpoints(audit_reader: AuditReader, find: Find, *, clock: Clock = now_ms) -> list[Endpoint]:
    """List the route. Callers without the scope admin see only their own user's calls.

    Args:
        audit_reader: The records.
        find: Finds a sandbox by its owner and its id or name, because records carry the id where it was known.
        clock: Epoch milliseconds, for spans such as `15m`.
    """

    @contract(AuditPage, query=AuditQuery, refusals=(404,))
    async def audit(request: Request, who: Principal) -> Response:
        """List the calls that were made, the newest first; without the scope admin only the caller's own."""
        query = parse_query(request, AuditQuery)
        now = clock()
        org = _organisation(query.org, who)
        page = await audit_reader.page(
            Filter(
                org=org,
                sandbox=await _sandbox(query.sandbox, org, find),
                key=query.key,
                user=query.user if who.may(Scope.ADMIN) else _own(query.user, who),
                action=query.action,
                decision=query.decision,
                since_ms=moment("since", query.since, now_ms=now),
                until_ms=moment("until", query.until, now_ms=now),
            ),
            limit=query.limit,
            cursor=query.cursor,
        )
        return JSONResponse(AuditPage(records=[record_object(record) for record in page.records], next=page.next))

    return [Endpoint(method="GET", path="/api/audit", handler=audit, scope=Scope.READ, action="audit.list")]


def record_object(record: AuditRecord) -> AuditObject:
    """Convert a record to its JSON form."""
    return {
        "id": record.id,
        "time": datetime.fromtimestamp(record.at_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "orgId": record.org_id,
        "userId": record.user_id,
        "keyId": record.key_id,
        "method": record.method,
        "address": record.address,
        "surface": record.surface,
        "action": record.action,
        "sandbox": record.sandbox,
        "decision": record.decision,
        "status": record.status,
        "reason": record.reason,
        "durationMs": record.duration_ms,
        "exitCode": None if record.exit_code == NO_EXIT_CODE else record.exit_code,
        "arguments": record.arguments,
        "requestId": record.request_id,
        "count": record.count,
    }


def moment(name: str, text: str, *, now_ms: int) -> int | None:
    """Parse a point in time into epoch milliseconds; None for an empty text.

    Args:
        name: The parameter, for the message.
        text: RFC 3339, epoch milliseconds, or a span before now such as 30s, 15m, 2h or 7d.
        now_ms: Now, epoch milliseconds.

    Raises:
        InvalidInput: The text has none of these forms.
    """
    if not text:
        return None
    if _EPOCH.fullmatch(text) and int(text) <= _MOST_MS:
        return int(text)
    span = _SPAN.fullmatch(text)
    if span is not None:
        return max(now_ms - int(span[1]) * _UNITS_MS[span[2]], 0)
    try:
        # A plus sign that was not encoded arrives as a space.
        found = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or found.year < 1970:
        hint = "Use RFC 3339 with an offset such as 2026-01-31T12:00:00Z, epoch milliseconds, or a span such as 15m"
        raise InvalidInput(f"{name}: {text[:_SHOWN]!r} is not a valid time", hint=hint)
    return round(found.timestamp() * 1000)


def _organisation(org: str, who: Principal) -> str | None:
    """Determine whose records the query selects; None for every organisation's.

    Raises:
        NotFound: The organisation is not the caller's; the error is the same whether it exists or not.
    """
    if not org or org == who.org_id:
        return who.org_id
    if not (who.operator and who.may(Scope.ADMIN)):
        raise NotFound(f"There is no organisation {org[:_SHOWN]!r}", hint="Leave org out to see your own")
    return None if org == ALL else "" if org == NOBODY else org


async def _sandbox(ref: str, org: str | None, find: Find) -> str:
    """Resolve a sandbox's id or name to its id; one that does not exist (any more) stays as it is."""
    if not ref or not org:
        return ref
    try:
        return (await find(org, ref)).id
    except (NotFound, Conflict):
        return ref


def _own(user: str, who: Principal) -> str:
    if user and user != who.user_id:
        raise NotFound(
            f"There is no user {user[:_SHOWN]!r}", hint="Without the scope admin you see only your own calls"
        )
    # An empty id would select every user's records.
    return who.user_id or NOBODY
