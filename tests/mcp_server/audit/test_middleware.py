"""What the edge records: tools where they are called, REST as it passes, and every refusal on the way."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import httpx
import pytest
import structlog
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from auth.principal import Principal
from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.audit.log import NOT_REACHED, AuditLog
from mcp_server.audit.middleware import AuditMiddleware
from mcp_server.audit.record import BY_TIME, AuditRecord
from mcp_server.http.guards import BodyLimit, FrontGuard
from mcp_server.http.request_log import RequestLog
from mcp_server.observability.metrics import Meters
from mcp_server.rest.endpoint import Endpoint, routes
from storage.collection import Collection
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import ERAS, Edge, Era, answer_of, initialize, rpc, serving, text_of
from tests.mcp_server.people import ALICE
from tests.waiting import PATIENCE_S
from vmm.calls.sandboxes import SandboxCalls
from vmm.errors import NotFound
from vmm.fleet import Fleet
from vmm.sandboxes.sandbox import Sandbox

pytestmark = pytest.mark.anyio

WHO = Principal(org_id=ALICE, user_id="user-alice", key_id="k" * 24, scopes=frozenset({Scope.RUN}))


async def exec_command(request: Request, _who: Principal) -> Response:
    await request.body()
    annotate_call(exit_code=7)
    return JSONResponse({})


async def missing(_request: Request, _who: Principal) -> Response:
    raise NotFound("There is no sandbox 'x'")


async def broken(_request: Request, _who: Principal) -> Response:
    raise RuntimeError("boom")


async def muddled(_request: Request, _who: Principal) -> Response:
    """A fault of the server that Python has a word for which sounds like the caller's."""
    return JSONResponse(int("many"))


async def spoilt(_request: Request, _who: Principal) -> Response:
    """A record of the server's own that is not what its model says."""
    return JSONResponse(TypeAdapter(int).validate_python("many"))


async def events(_request: Request, _who: Principal) -> Response:
    async def lines() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await anyio.sleep(0.1)
        yield "data: 2\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def breaking(_request: Request, _who: Principal) -> Response:
    async def lines() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        raise NotFound("The sandbox is gone")

    return StreamingResponse(lines(), media_type="text/event-stream")


async def shell(socket: WebSocket) -> None:
    socket.scope["state"]["action"] = "pty.shell"
    await socket.accept()
    await socket.receive_text()
    annotate_call(exit_code=0)
    await socket.close()


async def limited(request: Request) -> Response:
    """What an MCP endpoint behind its gate answers to too many calls."""
    request.state.refusal = "too many calls"
    return JSONResponse({"result": {"isError": True}})


SMALL = routes(
    [
        Endpoint(
            method="POST", path="/api/sandboxes/{id}/exec", handler=exec_command, scope=Scope.RUN, action="exec.run"
        ),
        Endpoint(method="GET", path="/api/sandboxes/{id}", handler=missing, scope=Scope.READ, action="sandbox.get"),
        Endpoint(method="DELETE", path="/api/sandboxes/{id}", handler=broken, scope=Scope.RUN, action="sandbox.delete"),
        Endpoint(method="GET", path="/api/muddled", handler=muddled, scope=Scope.RUN, action="exec.run"),
        Endpoint(method="GET", path="/api/spoilt", handler=spoilt, scope=Scope.RUN, action="exec.run"),
        Endpoint(method="GET", path="/api/events", handler=events, scope=Scope.RUN, action="exec.stream"),
        Endpoint(method="GET", path="/api/breaking", handler=breaking, scope=Scope.RUN, action="exec.stream"),
        Endpoint(method="GET", path="/api/admin", handler=missing, scope=Scope.ADMIN, action="key.list"),
    ]
)


class Spoilt(SandboxCalls):
    """Sandboxes whose records are not what their model says."""

    def __init__(self) -> None:
        pass

    async def get(self, owner: str, ref: str) -> Sandbox:
        return TypeAdapter(Sandbox).validate_python(ref)


class Introduced:
    """Says who calls, as the gate does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope["state"]["principal"] = WHO
        await self._app(scope, receive, send)


@pytest.fixture(autouse=True)
async def at_work(audit_log: AuditLog) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit_log.run)
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture
async def small(audit_log: AuditLog, meters: Meters) -> AsyncGenerator[Edge]:
    """A few routes behind the real layers."""
    security = TransportSecuritySettings(allowed_hosts=["127.0.0.1:*"], allowed_origins=["http://good"])
    shells: list[BaseRoute] = [WebSocketRoute("/api/sandboxes/{id}/pty", shell)]
    app = Starlette(
        routes=[*SMALL, *shells, Route("/api/mcp", limited, methods=["POST"])],
        middleware=[
            Middleware(RequestLog),
            Middleware(AuditMiddleware, audit_log=audit_log, meters=meters, mcp=["/api/mcp"]),
            Middleware(FrontGuard, security=security),
            Middleware(BodyLimit, most=1000),
            Middleware(Introduced),
        ],
    )
    async with serving(app) as running:
        yield running


@pytest.fixture
async def http(small: Edge) -> AsyncGenerator[httpx.AsyncClient]:
    async with small.http(**{"x-request-id": "find-me"}) as client:
        yield client


async def recorded(records: Collection, count: int = 1, *, besides: str = "") -> list[AuditRecord]:
    """All records, oldest first, as soon as there are so many; without those of one action."""
    with anyio.fail_after(PATIENCE_S):
        while len(found := [it for it in await records.find(BY_TIME) if it["action"] != besides]) < count:
            await anyio.sleep(0.02)
    assert len(found) == count
    return sorted((AuditRecord.of(document) for document in found), key=lambda record: record.id)


async def test_a_request_has_one_line_in_the_log_whether_it_is_recorded_or_not(http: httpx.AsyncClient) -> None:
    unrecorded = httpx.ASGITransport(RequestLog(JSONResponse({})))
    async with httpx.AsyncClient(transport=unrecorded, base_url="http://casemate") as other:
        for client, event in ((http, "call"), (other, "request")):
            with structlog.testing.capture_logs() as logged:
                await client.get("/api/sandboxes/x")
            assert [line["event"] for line in logged if line["log_level"] != "debug"] == [event]


@pytest.mark.parametrize("era", ERAS)
async def test_each_tool_call_is_recorded_once_with_its_caller(edge: Edge, records: Collection, era: Era) -> None:
    async with edge.client("alice", era) as alice, edge.client("bob", era) as bob:
        await alice.list_tools()
        await alice.call_tool("list_sandboxes", {"labels": ""})
        await bob.call_tool("get_sandbox", {"id": "box"})
        await alice.call_tool("cm_no_such_tool_at_all", {"a": 1})
        await alice.read_resource("casemate://sandboxes")
        with pytest.raises(MCPError):
            await alice.read_resource("casemate://sandbox/nowhere")
    # A client of the older protocols opens its stream again a second after the server closed it. Where the end of its
    # session takes longer than that to be answered, this is refused: a record, and none of a tool's call.
    found = await recorded(records, 5, besides=NOT_REACHED)
    assert [(record.action, record.decision, record.sandbox) for record in found] == [
        ("list_sandboxes", "allowed", ""),
        ("get_sandbox", "refused", "box"),
        ("unknown", "refused", ""),
        ("read_resource", "allowed", ""),
        ("read_resource", "refused", "nowhere"),
    ]
    assert [record.org_id[0] for record in found] == ["a", "b", "a", "a", "a"]
    assert {(record.surface, record.address, record.status) for record in found} == {("mcp", "127.0.0.1", 200)}
    assert len({record.key_id for record in found}) == 2
    assert found[1].reason == "not_found: Sandbox not found"
    assert found[2].reason == "there is no tool '[hidden]'"
    assert json.loads(found[4].arguments) == {"uri": "casemate://sandbox/nowhere"}


async def test_a_tool_call_has_the_request_id_of_its_own_request_even_in_an_old_session(
    edge: Edge, records: Collection
) -> None:
    async with edge.http("alice") as http:
        opened = await http.post("/api/mcp", json=initialize(), headers={"x-request-id": "first"})
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "x-request-id": "second"}
        call = rpc("tools/call", {"name": "list_sandboxes", "arguments": {}}, 2)
        assert "result" in answer_of(await http.post("/api/mcp", json=call, headers=session))
    (record,) = await recorded(records)
    assert record.request_id == "second"


async def test_mcp_requests_that_get_nowhere_are_recorded(edge: Edge, records: Collection) -> None:
    async with edge.http("cm_wrong") as nobody, edge.http("alice") as alice:
        assert (await nobody.post("/api/mcp", json=initialize())).status_code == 401
        assert (await alice.post("/api/mcp", content=b"x", headers={"content-type": "text/plain"})).status_code == 415
        assert (await alice.post("/api/mcp", json=initialize(), headers={"host": "evil"})).status_code == 421
        assert (await alice.get("/nothing", headers={"origin": "https://evil"})).status_code == 403
        assert (await alice.get("/nothing?apiKey=hunter2")).status_code == 404
        assert (await alice.post("/api/mcp", json=initialize())).status_code == 200
    found = await recorded(records, 5)
    assert [(record.surface, record.action, record.status) for record in found] == [
        ("mcp", "mcp", 401),
        ("mcp", "mcp", 415),
        ("mcp", "mcp", 421),
        ("rest", "unknown", 403),
        ("rest", "unknown", 404),
    ]
    assert all(record.decision == "refused" and record.reason for record in found)
    assert found[0].org_id == ""
    assert found[1].org_id == ALICE
    assert json.loads(found[4].arguments) == {"method": "GET", "path": "/nothing", "apiKey": "[hidden]"}


async def test_a_call_over_the_limit_is_a_refusal_though_it_is_answered_as_a_result(
    http: httpx.AsyncClient, records: Collection
) -> None:
    assert (await http.post("/api/mcp", json={})).status_code == 200
    (record,) = await recorded(records)
    assert (record.org_id, record.action, record.status) == (ALICE, "mcp", 200)
    assert (record.decision, record.reason) == ("refused", "too many calls")


async def test_refusals_on_the_way_to_the_protocol_are_summed_up_even_of_somebody_known(
    edge: Edge, records: Collection
) -> None:
    async with edge.http("alice") as alice:
        for _ in range(5):
            await alice.post("/api/mcp", content=b"x", headers={"content-type": "text/plain"})
    (record,) = await recorded(records)
    assert (record.org_id, record.count) == (ALICE, 1)


async def test_probes_are_no_calls(edge: Edge, records: Collection) -> None:
    async with edge.http() as http:
        for path in ("/health", "/ready"):
            assert (await http.get(path)).status_code == 200
        await http.get("/nothing")
    (record,) = await recorded(records)
    assert record.status == 404


async def test_a_rest_call_is_recorded_with_what_was_asked(http: httpx.AsyncClient, records: Collection) -> None:
    body = {"command": "curl -H 'X-API-Key: cm_abcdefghijkl'", "env": {"A": "hunter2"}}
    answer = await http.post("/api/sandboxes/box/exec?timeout=5", json=body)
    assert answer.status_code == 200
    (record,) = await recorded(records)
    assert (record.surface, record.action, record.sandbox) == ("rest", "exec.run", "box")
    assert (record.decision, record.status, record.exit_code, record.reason) == ("allowed", 200, 7, "")
    assert (record.org_id, record.user_id, record.key_id) == (ALICE, "user-alice", "k" * 24)
    assert (record.address, record.request_id) == ("127.0.0.1", "find-me")
    assert json.loads(record.arguments) == {
        "timeout": "5",
        "command": "curl -H 'X-API-Key: [hidden]'",
        "env": ["A"],
    }


async def test_of_a_body_that_is_no_json_only_the_size_is_kept(http: httpx.AsyncClient, records: Collection) -> None:
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/json"}):
        await http.post("/api/sandboxes/box/exec", content=b"hunter2", headers=headers)
    found = await recorded(records, 2)
    assert [json.loads(record.arguments) for record in found] == [{"body": "[7 bytes]"}] * 2


@pytest.mark.parametrize("era", ERAS)
async def test_a_tools_arguments_that_are_refused_are_named(edge: Edge, records: Collection, era: Era) -> None:
    async with edge.client("alice", era) as client:
        await client.call_tool("create_sandbox", {"name": "a", "cpu": "hunter2"})
    (record,) = await recorded(records)
    assert (record.decision, record.reason) == ("refused", "invalid_input: cpu")


async def test_a_tool_that_stumbles_over_a_value_of_its_own_has_failed(
    assemble: Assemble, keys: dict[str, str], records: Collection, empty: Fleet
) -> None:
    empty.sandboxes = Spoilt()
    services = assemble(empty)
    async with serving(services.web(), keys, services.identity.run) as edge, edge.client("alice") as client:
        told = await client.call_tool("get_sandbox", {"id": "hunter2"})
    assert text_of(told).startswith("Internal error")
    (record,) = await recorded(records)
    assert (record.decision, record.reason) == ("failed", "ValidationError")


@pytest.mark.parametrize(
    ("method", "path", "status", "decision", "reason"),
    [
        ("GET", "/api/sandboxes/x", 404, "refused", "There is no sandbox 'x'"),
        ("GET", "/api/admin", 403, "refused", "This needs the scope admin; the credential has run"),
        ("PUT", "/api/sandboxes/x", 405, "refused", "method not allowed"),
        ("DELETE", "/api/sandboxes/x", 500, "failed", "RuntimeError"),
        ("GET", "/api/muddled", 500, "failed", "ValueError"),
        ("GET", "/api/spoilt", 500, "failed", "ValidationError"),
    ],
)
async def test_a_rest_call_that_is_refused_or_fails_says_why(
    http: httpx.AsyncClient, records: Collection, method: str, path: str, status: int, decision: str, reason: str
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    (record,) = await recorded(records)
    assert (record.status, record.decision, record.reason) == (status, decision, reason)


async def test_an_answer_that_broke_off_has_failed(http: httpx.AsyncClient, records: Collection) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get("/api/breaking")
    (record,) = await recorded(records)
    assert (record.status, record.decision, record.reason) == (200, "failed", "The sandbox is gone")


async def test_a_body_that_is_too_large_is_recorded(http: httpx.AsyncClient, records: Collection) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    answer = await http.post("/api/sandboxes/box/exec", content=chunks())
    assert answer.status_code == 413
    (record,) = await recorded(records)
    assert (record.status, record.decision) == (413, "refused")
    assert record.reason == "The request has more than 1000 bytes"


async def test_a_stream_counts_as_open_while_it_lasts(
    http: httpx.AsyncClient, records: Collection, meters: Meters
) -> None:
    async with http.stream("GET", "/api/events") as answer:
        assert b'casemate_open_streams{kind="events"} 1.0' in meters.text()
        await answer.aread()
    (record,) = await recorded(records)
    assert record.duration_ms >= 100
    assert b'casemate_open_streams{kind="events"} 0.0' in meters.text()


async def test_a_websocket_is_recorded_at_its_end(small: Edge, records: Collection, meters: Meters) -> None:
    url = small.url.replace("http", "ws") + "/api/sandboxes/box/pty?cols=80&apiKey=hunter2"
    async with connect(url, proxy=None) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"]
        assert b'casemate_open_streams{kind="websocket"} 1.0' in meters.text()
        await socket.send("exit")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    (record,) = await recorded(records)
    assert (record.action, record.status, record.decision, record.exit_code) == ("pty.shell", 101, "allowed", 0)
    assert json.loads(record.arguments) == {"cols": "80", "apiKey": "[hidden]"}
    assert record.request_id == socket.response.headers["x-request-id"]
    assert b'casemate_open_streams{kind="websocket"} 0.0' in meters.text()


async def test_a_refused_websocket_is_recorded(small: Edge, records: Collection) -> None:
    url = small.url.replace("http", "ws")
    with pytest.raises(InvalidStatus) as foreign:
        await connect(f"{url}/api/sandboxes/box/pty", proxy=None, origin=Origin("http://evil"))
    with pytest.raises(InvalidStatus) as unknown:
        await connect(f"{url}/nowhere", proxy=None)
    assert [foreign.value.response.status_code, unknown.value.response.status_code] == [403, 403]
    found = await recorded(records, 2)
    assert [(record.status, record.decision) for record in found] == [(403, "refused"), (403, "refused")]
    assert found[0].reason == "This origin is not allowed to call the server"


async def test_every_request_is_counted_with_bounded_labels(http: httpx.AsyncClient, meters: Meters) -> None:
    await http.get("/api/sandboxes/one")
    await http.get("/api/sandboxes/two")
    await http.get("/somewhere/else")
    await http.request("PROPFIND", "/somewhere")
    text = meters.text().decode()
    assert 'voidrun_http_requests_total{method="GET",route="sandbox.get",status="404"} 2.0' in text
    assert 'voidrun_http_requests_total{method="GET",route="unknown",status="404"} 1.0' in text
    assert 'method="OTHER",route="unknown"' in text
    assert 'voidrun_sbx_operation_requests_total{category="sandbox",operation="get",status="refused"} 2.0' in text
    assert 'casemate_refusals_total{reason="not_found"} 4.0' in text
    assert "somewhere" not in text
    assert "PROPFIND" not in text


async def test_tool_calls_are_counted_by_tool_and_outcome(edge: Edge, meters: Meters) -> None:
    async with edge.client("alice") as client:
        await client.call_tool("list_sandboxes", {})
        await client.call_tool("get_sandbox", {"id": "x"})
        await client.call_tool("made_up", {})
    text = meters.text().decode()
    assert 'casemate_tool_calls_total{outcome="allowed",tool="list_sandboxes"} 1.0' in text
    assert 'casemate_tool_calls_total{outcome="refused",tool="get_sandbox"} 1.0' in text
    assert 'casemate_tool_calls_total{outcome="refused",tool="unknown"} 1.0' in text
    assert 'route="mcp"' in text
    assert "made_up" not in text


async def test_the_whole_server_shows_its_audit_and_its_metrics(edge: Edge, records: Collection) -> None:
    async with edge.http("alice") as alice, edge.client("alice") as client:
        await client.call_tool("get_sandbox", {"id": "nowhere"})
        assert (await alice.get("/api/sandboxes/nowhere")).status_code == 404
        await recorded(records, 2)
        shown = (await alice.get("/api/audit", params={"sandbox": "nowhere"})).json()["records"]
        scraped = await alice.get("/metrics")
    assert {(item["surface"], item["decision"], item["orgId"]) for item in shown} == {
        ("mcp", "refused", ALICE),
        ("rest", "refused", ALICE),
    }
    assert scraped.status_code == 200
    assert "casemate_store_up 1.0" in scraped.text
    assert 'casemate_tool_calls_total{outcome="refused",tool="get_sandbox"} 1.0' in scraped.text
    assert 'tool="mcp"' not in scraped.text
