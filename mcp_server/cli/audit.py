"""`casemate audit`: show the audit log."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import anyio
import typer

from .console import note, run, show_json, show_table
from .options import AsJson, target_of
from .remote import Query, Remote, route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, check_ref, moment

_PAGE = 1000
_INTERVAL_S = 2.0
_HEAD = ("time", "who", "surface", "action", "sandbox", "decision", "status", "ms", "exit", "reason or arguments")


class Decision(StrEnum):
    """The outcome of a call."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    FAILED = "failed"


def audit(
    context: typer.Context,
    sandbox: Annotated[str, typer.Option("--sandbox", metavar="SANDBOX", help="Only calls on this sandbox.")] = "",
    key: Annotated[str, typer.Option("--key", metavar="ID", help="Only calls with this key.")] = "",
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Only calls by this user.")] = "",
    action: Annotated[str, typer.Option("--action", help="Only calls with this action, such as sandbox.exec.")] = "",
    decision: Annotated[Decision | None, typer.Option("--decision", help="Only calls with this decision.")] = None,
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="WHEN", help="An age such as 2h or 7d, or a time such as 2026-01-31T12:00:00Z."
        ),
    ] = "",
    until: Annotated[str, typer.Option("--until", metavar="WHEN", help="Same format as --since.")] = "",
    org: Annotated[
        str, typer.Option("--org", metavar="ID", help="Operator only: another organisation, or * for all.")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1_000_000, help="Show at most this many, the newest.")
    ] = 100,
    following: Annotated[bool, typer.Option("-f", "--follow", help="Print new records until interrupted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the audit log, oldest record first. With --json and --follow, print one record per line."""
    given = {
        "sandbox": check_ref(sandbox) if sandbox else "",
        "key": key,
        "user": user,
        "action": action,
        "decision": decision or "",
        "since": since,
        "until": until,
        "org": org,
    }
    query: Query = {name: str(value) for name, value in given.items() if value}
    # Do not resolve the sandbox first: that call would add a record to the log that is shown.

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            found = await _newest(remote, query, limit)
            if not following:
                _show(found, as_json=as_json)
                return
            await _follow(remote, query, found, as_json=as_json)

    run(work)


async def _newest(remote: Remote, query: Query, limit: int) -> list[Object]:
    found: list[Object] = []
    cursor = ""
    while len(found) < limit:
        page: Query = {**query, "limit": min(limit - len(found), _PAGE)} | ({"cursor": cursor} if cursor else {})
        answer = as_object(await remote.call("GET", route("audit"), query=page))
        found += as_objects(answer.get("records"))
        cursor = str(answer.get("next") or "")
        if not cursor:
            break
    return found[::-1]


async def _follow(remote: Remote, query: Query, found: list[Object], *, as_json: bool) -> None:
    """Print the records found, then new ones. Calls are recorded when they end, so the newest are polled."""
    seen: dict[str, None] = {}
    while True:
        new = [record for record in found if str(record.get("id")) not in seen]
        seen.update(dict.fromkeys(str(record.get("id")) for record in new))
        for old in list(seen)[: -2 * _PAGE]:
            del seen[old]
        for record in new:
            if as_json:
                show_json(record, lines=True)
            else:
                show_table([_row(record)])
        await anyio.sleep(_INTERVAL_S)
        found = await _newest(remote, query, _PAGE)


def _show(found: list[Object], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
    elif found:
        show_table([_HEAD, *(_row(record) for record in found)])
    else:
        note("No records found.")


def _row(record: Object) -> tuple[str, ...]:
    details = record.get("reason") or record.get("arguments") or ""
    count = record.get("count")
    return (
        moment(record.get("time")),
        cell(record.get("keyId") or record.get("userId") or record.get("address")),
        *(cell(record.get(name)) for name in ("surface", "action", "sandbox", "decision", "status", "durationMs")),
        cell(record.get("exitCode")),
        (f"{count} times: " if isinstance(count, int) and count > 1 else "") + cell(details),
    )
