"""Looking the audit up: who sees what, filters, pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from auth.principal import Principal
from auth.roles import Role, Scope
from mcp_server.audit import reader as journal_module
from mcp_server.audit.reader import AuditReader, Filter
from mcp_server.audit.record import AuditRecord
from mcp_server.rest.audit import audit_endpoints, moment
from mcp_server.rest.endpoint import routes
from storage.collection import Collection
from tests.mcp_server.audit.test_refusal_aggregator import RECORD
from tests.mcp_server.edge import serving
from vmm.errors import InvalidInput, NotFound
from vmm.sandboxes.sandbox import Sandbox
from vmm.sandboxes.spec import SandboxSpec

pytestmark = pytest.mark.anyio

NOW = 1_700_000_000_000
MINUTE = 60_000
ALICE, BOB = "a" * 24, "b" * 24
CALLERS = {
    "owner": Principal(org_id=ALICE, user_id="anna"),
    "member": Principal(org_id=ALICE, user_id="max", role=Role.MEMBER, scopes=frozenset({Scope.READ, Scope.RUN})),
    "nameless": Principal(org_id=ALICE, user_id="", role=Role.MEMBER, scopes=frozenset({Scope.READ})),
    "scopeless": Principal(org_id=ALICE, user_id="sue", scopes=frozenset()),
    "bob": Principal(org_id=BOB, user_id="bob"),
    "operator": Principal(org_id=BOB, user_id="root", operator=True),
    "reading operator": Principal(org_id=BOB, user_id="root", operator=True, scopes=frozenset({Scope.READ})),
}


def record(number: int, **values: object) -> AuditRecord:
    base = replace(RECORD, id=f"{number:024x}", at_ms=NOW - number * MINUTE, org_id=ALICE, user_id="anna", reason="")
    return replace(base, decision="allowed", status=200, **values)  # pyright: ignore[reportArgumentType]


RECORDS = (
    record(1, sandbox="box", key_id="k1", action="exec.run", exit_code=0),
    record(2, sandbox="box", key_id="k2", action="exec.run", user_id="max", exit_code=2),
    record(3, sandbox="", key_id="k1", action="sandbox.list"),
    replace(record(4, sandbox="other", key_id="k1", action="sandbox.get"), decision="refused", status=404, reason="no"),
    record(5, org_id=BOB, user_id="bob", sandbox="box", key_id="k9"),
    replace(RECORD, id=f"{6:024x}", at_ms=NOW - 6 * MINUTE, count=1000),
)


class Introduced:
    """Says who calls, as the gate does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            who = CALLERS.get(Headers(scope=scope).get("x-who", ""))
            if who is not None:
                scope.setdefault("state", {})["principal"] = who
        await self._app(scope, receive, send)


async def find(owner: str, ref: str) -> Sandbox:
    """Alice has one sandbox, `named`, which the records know as `other`."""
    if owner != ALICE or ref != "named":
        raise NotFound(f"There is no sandbox {ref!r}")
    return Sandbox.new("other", owner, SandboxSpec(name=ref), now_ms=0)


@pytest.fixture
async def filled(records: Collection) -> Collection:
    for item in RECORDS:
        await records.insert(item.document())
    return records


@pytest.fixture
async def http(filled: Collection) -> AsyncGenerator[httpx.AsyncClient]:
    app = Starlette(routes=routes(audit_endpoints(AuditReader(filled), find, clock=lambda: NOW)))
    async with serving(Introduced(app)) as edge, edge.http() as client:
        yield client


async def seen(http: httpx.AsyncClient, who: str = "owner", **parameters: str) -> list[int]:
    """The numbers of the records that somebody is shown."""
    answer = await http.get("/api/audit", params=parameters, headers={"x-who": who})
    assert answer.status_code == 200, answer.text
    return [int(item["id"], 16) for item in answer.json()["records"]]


async def test_a_record_has_everything_on_the_wire(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/audit", params={"limit": "1"}, headers={"x-who": "owner"})
    body = answer.json()
    assert body["records"] == [
        {
            "id": f"{1:024x}",
            "time": "2023-11-14T22:12:20.000Z",
            "orgId": ALICE,
            "userId": "anna",
            "keyId": "k1",
            "method": "",
            "address": "192.0.2.1",
            "surface": "rest",
            "action": "exec.run",
            "sandbox": "box",
            "decision": "allowed",
            "status": 200,
            "reason": "",
            "durationMs": 1,
            "exitCode": 0,
            "arguments": "{}",
            "requestId": "",
            "count": 1,
        }
    ]
    assert body["next"]


async def test_an_owner_sees_the_organisation_a_member_the_own_calls(http: httpx.AsyncClient) -> None:
    assert await seen(http, "owner") == [1, 2, 3, 4]
    assert await seen(http, "member") == [2]
    assert await seen(http, "member", user="max") == [2]
    assert await seen(http, "nameless") == []
    assert await seen(http, "bob") == [5]


async def test_nobody_sees_another_organisation_or_whether_it_is_there(http: httpx.AsyncClient) -> None:
    refusals: list[str] = []
    for who in ("owner", "member", "reading operator"):
        for org in (BOB if who != "reading operator" else ALICE, "f" * 24, "*", "-"):
            answer = await http.get("/api/audit", params={"org": org}, headers={"x-who": who})
            assert answer.status_code == 404
            refusals.append(answer.text.replace(org, "ORG"))
    assert len(set(refusals)) == 1
    answer = await http.get("/api/audit", params={"user": "anna"}, headers={"x-who": "member"})
    assert answer.status_code == 404
    assert await seen(http, "owner", org=ALICE) == [1, 2, 3, 4]


async def test_the_operator_sees_any_organisation_all_of_them_and_nobodys_calls(http: httpx.AsyncClient) -> None:
    assert await seen(http, "operator") == [5]
    assert await seen(http, "operator", org=ALICE) == [1, 2, 3, 4]
    assert await seen(http, "operator", org="*") == [1, 2, 3, 4, 5, 6]
    assert await seen(http, "operator", org="*", sandbox="box") == [1, 2, 5]
    assert await seen(http, "operator", org="-") == [6]


async def test_without_credential_or_scope_nothing_is_shown(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/audit")).status_code == 401
    assert (await http.get("/api/audit", headers={"x-who": "scopeless"})).status_code == 403


@pytest.mark.parametrize(
    ("parameters", "numbers"),
    [
        ({"sandbox": "box"}, [1, 2]),
        ({"key": "k1"}, [1, 3, 4]),
        ({"sandbox": "box", "key": "k1"}, [1]),
        ({"user": "max"}, [2]),
        ({"action": "exec.run"}, [1, 2]),
        ({"decision": "refused"}, [4]),
        ({"since": "3m"}, [1, 2, 3]),
        ({"until": "3m"}, [4]),
        ({"since": str(NOW - 2 * MINUTE), "until": str(NOW - MINUTE)}, [2]),
        ({"since": "2023-11-14T22:11:20Z"}, [1, 2]),
        ({"since": "2023-11-14T23:11:20+01:00"}, [1, 2]),
        ({"sandbox": "box", "since": "90s"}, [1]),
        ({"sandbox": "nothing"}, []),
        ({"sandbox": "named"}, [4]),
        ({"limit": "2"}, [1, 2]),
        ({"sandbox": "", "limit": "", "since": ""}, [1, 2, 3, 4]),
    ],
)
async def test_filters_narrow_the_records(
    http: httpx.AsyncClient, parameters: dict[str, str], numbers: list[int]
) -> None:
    assert await seen(http, **parameters) == numbers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "many"),
        ("decision", "maybe"),
        ("since", "yesterday"),
        ("since", "9" * 5000),
        ("since", "2023-11-14T22:11:20"),
        ("since", "5w"),
        ("since", "9" * 100),
        ("until", "-5m"),
        ("until", "1969-01-01T00:00:00Z"),
        ("cursor", "x"),
        ("cursor", "1-2"),
        ("sandbox", "x" * 101),
        ("sandbox", "a\0b"),
        ("action", "a\nb"),
    ],
)
async def test_bad_parameters_are_named(http: httpx.AsyncClient, name: str, value: str) -> None:
    answer = await http.get("/api/audit", params={name: value}, headers={"x-who": "owner"})
    assert answer.status_code == 400
    assert name in answer.json()["error"]
    assert len(answer.text) < 600


async def test_pages_join_without_gaps_or_doubles(http: httpx.AsyncClient) -> None:
    pages: list[str] = []
    cursor, found = "", list[int]()
    while True:
        parameters = {"org": "*", "limit": "2", "cursor": cursor}
        answer = (await http.get("/api/audit", params=parameters, headers={"x-who": "operator"})).json()
        found += [int(item["id"], 16) for item in answer["records"]]
        cursor = answer["next"]
        pages.append(cursor)
        if not cursor:
            break
    assert found == [1, 2, 3, 4, 5, 6]
    assert len(pages) == 3


async def test_a_filter_that_few_meet_costs_a_bounded_look_and_can_be_followed(
    records: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_MOST_READ", 1000)
    for number in range(300):
        await records.insert(record(number, action="rare" if number == 250 else "often").document())
    audit_reader = AuditReader(records)
    wanted = Filter(org=ALICE, action="rare")
    first = await audit_reader.page(wanted, limit=1)
    assert first.records == ()
    assert first.next
    second = await audit_reader.page(wanted, limit=1, cursor=first.next)
    third = await audit_reader.page(wanted, limit=1, cursor=second.next)
    assert [item.action for item in (*second.records, *third.records)] == ["rare"]


@given(st.integers(min_value=0, max_value=900_000_000_000))
def test_a_moment_is_the_same_in_every_notation(at_ms: int) -> None:
    assert moment("since", str(at_ms), now_ms=NOW) == at_ms
    assert moment("since", f"{at_ms // 1000}s", now_ms=at_ms) in range(1000)


@given(st.text(max_size=40))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    try:
        found = moment("since", text, now_ms=NOW)
    except InvalidInput as error:
        assert "since" in error.message
    else:
        assert found is None or found >= 0
