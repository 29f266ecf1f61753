"""The front of the server: routes, checks, keys, sessions, the protocol's wire."""

from __future__ import annotations

import json
import re

import anyio
import httpx
import pytest

from tests.mcp_server.edge import ERAS, Edge, Era, answer_of, initialize, refusal_of, rpc, text_of
from vmm.fleet import Fleet

pytestmark = pytest.mark.anyio

TOOLS = {
    "create_sandbox",
    "list_sandboxes",
    "get_sandbox",
    "update_sandbox",
    "delete_sandbox",
    "start_sandbox",
    "restart_sandbox",
    "snapshot_sandbox",
    "list_snapshots",
    "restore_snapshot",
    "delete_snapshot",
    "list_volumes",
    "change_volume",
    "fork_sandbox",
    "execute_command",
    "run_code",
    "run_background_command",
    "list_processes",
    "read_process_output",
    "kill_process",
    "read_file",
    "write_file",
    "list_files",
    "create_directory",
    "delete_file",
    "move_file",
    "file_info",
    "search_files",
    "terminal_open",
    "terminal_send",
    "terminal_snapshot",
    "terminal_close",
    "publish_port",
    "unpublish_port",
}


async def open_session(http: httpx.AsyncClient) -> str:
    response = await http.post("/api/mcp", json=initialize())
    assert response.status_code == 200, response.text
    return response.headers["mcp-session-id"]


@pytest.mark.parametrize("path", ["/api/mcp", "/api/mcp/", "/api/mcp/core", "/api/mcp/readonly/"])
async def test_raw_json_rpc_works_from_the_handshake_to_a_call(edge: Edge, path: str) -> None:
    async with edge.http("alice") as http:
        opened = await http.post(path, json=initialize())
        assert opened.status_code == 200
        assert answer_of(opened)["result"]["serverInfo"]["name"] == "casemate"
        session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        annotate_call = await http.post(path, json=rpc("notifications/initialized", request_id=None), headers=session)
        assert annotate_call.status_code == 202
        listed = answer_of(await http.post(path, json=rpc("tools/list", {}, 2), headers=session))
        assert "list_sandboxes" in {tool["name"] for tool in listed["result"]["tools"]}
        call = rpc("tools/call", {"name": "list_sandboxes", "arguments": {}}, 3)
        called = answer_of(await http.post(path, json=call, headers=session))
        assert json.loads(called["result"]["content"][0]["text"]) == {"sandboxes": [], "total": 0, "page": 1}
        assert "structuredContent" not in called["result"]


@pytest.mark.parametrize("era", ERAS)
async def test_both_eras_list_all_tools(edge: Edge, era: Era) -> None:
    async with edge.client("alice", era) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == TOOLS
    assert all(tool.annotations is not None and tool.annotations.read_only_hint is not None for tool in tools)


async def test_the_tools_fit_their_budget(edge: Edge) -> None:
    sizes: dict[str, int] = {}
    for path in ("/api/mcp", "/api/mcp/core", "/api/mcp/readonly"):
        async with edge.client("alice", path=path) as client:
            listed = await client.list_tools()
        sizes[path] = len(listed.model_dump_json(by_alias=True, exclude_none=True))
    assert sizes["/api/mcp"] <= 22_000
    assert sizes["/api/mcp/core"] <= 10_000


async def test_arguments_bear_the_names_that_voidrun_gave_them(edge: Edge) -> None:
    async with edge.client("alice") as client:
        schemas = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
    assert {"name", "image", "cpu", "mem", "envVars", "autoSleep", "labels"} <= set(
        schemas["create_sandbox"]["properties"]
    )
    required = {name: set(schema.get("required", ())) for name, schema in schemas.items()}
    assert required["create_sandbox"] == {"name"}
    assert required["execute_command"] == {"id", "command"}
    assert required["write_file"] == {"id", "path", "content"}
    assert required["move_file"] == {"id", "from", "to"}
    assert required["search_files"] == {"id", "pattern"}
    assert required["kill_process"] == {"id", "pid"}
    assert required["list_sandboxes"] == required["list_snapshots"] == set()
    assert required["snapshot_sandbox"] == required["fork_sandbox"] == required["start_sandbox"] == {"id"}
    assert required["restart_sandbox"] == {"id"}
    assert required["restore_snapshot"] == {"id", "snapshot"}
    assert required["delete_snapshot"] == {"snapshot"}
    assert {"ttl", "snapshot"} <= set(schemas["create_sandbox"]["properties"])
    assert {"ttl", "idle", "labels", "autoSleep"} <= set(schemas["update_sandbox"]["properties"])


async def test_tools_that_destroy_say_so_and_those_that_add_do_not(edge: Edge) -> None:
    async with edge.client("alice") as client:
        hints = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
    destroys = {name for name, hint in hints.items() if hint and hint.destructive_hint}
    assert {"delete_sandbox", "start_sandbox", "restart_sandbox", "restore_snapshot", "delete_snapshot"} <= destroys
    assert not {"create_sandbox", "snapshot_sandbox", "fork_sandbox", "update_sandbox"} & destroys


async def test_only_reading_tools_are_in_the_reading_set(edge: Edge) -> None:
    async with edge.client("alice", path="/api/mcp/readonly") as client:
        tools = (await client.list_tools()).tools
        assert {"read_file", "terminal_snapshot", "list_snapshots"} <= {tool.name for tool in tools}
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
        refused = await client.call_tool("create_sandbox", {"name": "x"})
    assert refused.is_error
    assert "There is no tool 'create_sandbox'" in text_of(refused)


@pytest.mark.parametrize("key", [None, "cm_mallory"])
async def test_no_key_or_a_wrong_one_is_refused_without_a_hint_of_oauth(edge: Edge, key: str | None) -> None:
    async with edge.http(key) as http:
        response = await http.post("/api/mcp", json=initialize())
    assert response.status_code == 401
    assert "error" in response.json()
    assert "www-authenticate" not in response.headers


@pytest.mark.parametrize(
    "path",
    ["/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server", "/", "/%00"],
)
async def test_what_is_not_there_is_a_json_404(edge: Edge, path: str) -> None:
    async with edge.http() as http:
        response = await http.get(path)
    assert response.status_code == 404
    assert refusal_of(response) == {
        "error": "Not Found",
        "details": "The REST API is below /api, and the MCP endpoint is /api/mcp",
    }


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/register", "/api/register"),
        ("/api/mcp//", "/api/mcp"),
        ("/health/", "/health"),
        ("/sandboxes", "/api/sandboxes"),
        ("/api/sandboxes/", "/api/sandboxes"),
        (f"/api/sandboxes/{'6' * 24}/exce", "/api/sandboxes/{id}/exec"),
        (f"/api/sandboxes/{'6' * 24}/file/upload?path=/x", "/api/sandboxes/{id}/files/upload"),
        ("/api/orgs/apikey", "/api/orgs/apikeys"),
    ],
)
async def test_a_path_that_is_not_there_is_answered_with_the_nearest_route(edge: Edge, path: str, route: str) -> None:
    async with edge.http() as http:
        response = await http.get(path)
    assert response.status_code == 404
    assert refusal_of(response) == {"error": "Not Found", "details": f"The nearest route is {route}"}


async def test_a_plain_get_on_a_websocket_is_told_to_upgrade(edge: Edge) -> None:
    async with edge.http("alice") as alice, edge.http() as nobody:
        for path in ("pty", "pty/sessions/0123456789ab", "forward/80"):
            response = await alice.get(f"/api/sandboxes/box/{path}")
            assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
            assert refusal_of(response)["error"] == "This is a WebSocket"
            assert (await nobody.get(f"/api/sandboxes/box/{path}")).status_code == 401
        assert "GET" in (await alice.post("/api/sandboxes/box/pty")).headers["allow"]


async def test_a_wrong_method_is_a_json_405(edge: Edge) -> None:
    async with edge.http() as http:
        response = await http.post("/health")
    assert response.status_code == 405
    assert refusal_of(response) == {"error": "Method Not Allowed"}
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize("path", ["/api/mcp", "/health"])
async def test_another_servers_host_header_is_refused_everywhere(edge: Edge, path: str) -> None:
    async with edge.http("alice", host="evil.example.org") as http:
        response = await http.get(path)
    assert response.status_code == 421
    assert "CASEMATE_ALLOWED_HOSTS" in response.json()["details"]


@pytest.mark.parametrize("path", ["/api/mcp", "/health"])
async def test_a_foreign_pages_origin_is_refused_everywhere(edge: Edge, path: str) -> None:
    async with edge.http("alice", origin="https://evil.example.org") as http:
        response = await http.get(path)
    assert response.status_code == 403
    assert "CASEMATE_ALLOWED_ORIGINS" in response.json()["details"]


async def test_a_page_of_this_machine_may_call(edge: Edge) -> None:
    async with edge.http("alice", origin="http://localhost:5173") as http:
        assert (await http.post("/api/mcp", json=initialize())).status_code == 200


async def test_wrong_json_and_wrong_content_type_are_client_errors(edge: Edge) -> None:
    async with edge.http("alice") as http:
        broken = await http.post("/api/mcp", content=b'{"jsonrpc', headers={"content-type": "application/json"})
        text = await http.post("/api/mcp", content=b"hello", headers={"content-type": "text/plain"})
        charset = {"content-type": "application/json; charset=utf-8"}
        fine = await http.post("/api/mcp", content=json.dumps(initialize()), headers=charset)
    assert broken.status_code == 400
    assert broken.json()["error"]["code"] == -32700
    assert text.status_code == 415
    assert refusal_of(text) == {
        "error": "Content-Type is 'text/plain'",
        "details": "Send a JSON-RPC message as application/json",
    }
    assert fine.status_code == 200


async def test_a_body_that_is_too_large_is_refused_with_the_way_out(edge: Edge) -> None:
    async with edge.http("alice") as http:
        response = await http.post("/api/mcp", content=b" " * (17 * 1024 * 1024))
    assert response.status_code == 413
    assert "16 MiB" in response.json()["details"]


async def test_health_and_readiness_need_no_key(edge: Edge) -> None:
    async with edge.http() as http:
        assert (await http.get("/health")).json()["status"] == "ok"
        ready = await http.get("/ready")
    assert ready.status_code == 200
    parts = {"store": "ok", "hypervisor": "ok", "image": "ok"}
    assert ready.json() == {"status": "ready", "ready": True, "parts": parts}


async def test_every_answer_has_a_request_id_and_keeps_a_sane_one(edge: Edge) -> None:
    async with edge.http() as http:
        assert re.fullmatch(r"[0-9a-f]{16}", (await http.get("/health")).headers["x-request-id"])
        kept = await http.get("/health", headers={"x-request-id": "abc-123"})
        assert kept.headers["x-request-id"] == "abc-123"
        replaced = await http.get("/nothing", headers={"x-request-id": "x" * 65})
        assert replaced.headers["x-request-id"] != "x" * 65


async def test_a_session_belongs_to_its_owner_alone(edge: Edge) -> None:
    async with edge.http("alice") as alice, edge.http("bob") as bob:
        session = {"mcp-session-id": await open_session(alice)}
        stolen = await bob.post("/api/mcp", json=rpc("tools/list", {}, 2), headers=session)
        assert stolen.status_code == 404
        ended = await bob.delete("/api/mcp", headers=session)
        assert ended.status_code == 404
        own = await alice.post("/api/mcp", json=rpc("tools/list", {}, 3), headers=session)
        assert own.status_code == 200


async def test_an_owner_at_the_limit_loses_the_session_that_rested_longest(edge: Edge) -> None:
    async with edge.http("alice") as alice, edge.http("bob") as bob:
        others = {"mcp-session-id": await open_session(bob)}
        sessions = [await open_session(alice) for _ in range(4)]
        statuses = [
            (await alice.post("/api/mcp", json=rpc("ping", {}, 9), headers={"mcp-session-id": session})).status_code
            for session in sessions
        ]
        assert statuses == [404, 200, 200, 200]
        assert (await bob.post("/api/mcp", json=rpc("ping", {}, 9), headers=others)).status_code == 200


async def test_an_owner_whose_sessions_are_all_in_use_is_refused(edge: Edge) -> None:
    async with edge.http("alice") as alice, anyio.create_task_group() as tasks:

        async def listen_on(session: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            headers = {"mcp-session-id": session, "accept": "text/event-stream"}
            async with alice.stream("GET", "/api/mcp", headers=headers) as stream:
                assert stream.status_code == 200
                task_status.started()
                await anyio.sleep_forever()

        for _ in range(3):
            await tasks.start(listen_on, await open_session(alice))
        refused = await alice.post("/api/mcp", json=initialize())
        assert refused.status_code == 429
        assert "All 3 sessions" in refused.json()["error"]
        tasks.cancel_scope.cancel()


async def test_a_session_that_was_ended_is_gone(edge: Edge) -> None:
    async with edge.http("alice") as http:
        session = {"mcp-session-id": await open_session(http)}
        assert (await http.delete("/api/mcp", headers=session)).status_code == 200
        assert (await http.post("/api/mcp", json=rpc("ping", {}, 2), headers=session)).status_code == 404


@pytest.mark.parametrize(
    ("tool", "arguments", "reason"),
    [
        (
            "get_sandbox",
            {"id": "nowhere"},
            "Sandbox not found. There is no sandbox 'nowhere': list the sandboxes, or create one.",
        ),
        ("get_sandbox", {}, "Arguments refused: id is missing"),
        ("create_sandbox", {"name": "a", "cpu": "many"}, "cpu='many': Input should be a valid integer"),
        ("create_sandbox", {"name": "a", "envVars": "no"}, "envVars='no': Input should be a valid dictionary"),
        ("create_sandbox", {"name": "a", "publishPorts": [0]}, "publishPorts must be from 1 to 65535, got 0"),
        ("list_sandboxes", {"labels": "team"}, 'invalid label selector segment "team"'),
        ("update_sandbox", {"id": "a"}, "Nothing to change"),
        ("execute_command", {"id": "a", "command": "  "}, "command is empty"),
        (
            "execute_command",
            {"id": "a", "command": "x" * 100_001},
            "command must have at most 100000 characters, got 100001",
        ),
        ("execute_command", {"id": "a", "command": "x", "timeout": -1}, "timeout: -1 s is out of range"),
        ("execute_command", {"id": "a", "command": "x", "wait": -1}, "wait: -1 s is out of range"),
        ("run_code", {"id": "a", "code": "1", "language": "cobol"}, "language: 'cobol' is unknown"),
        ("run_code", {"id": "a", "code": ""}, "code is empty"),
        ("read_process_output", {"id": "a", "pid": 1, "stdout_offset": -1}, "offset: -1 is negative"),
        ("kill_process", {"id": "a", "pid": 1, "signal": "BANG"}, "signal: 'BANG' is unknown"),
        ("kill_process", {"id": "a", "pid": 1, "signal": "9" * 5000}, "is unknown. Use TERM"),
        ("read_file", {"id": "a", "path": "/x", "offset": -1}, "offset: -1 is negative"),
        ("read_file", {"id": "a", "path": "/x", "encoding": "latin-1"}, "encoding: 'latin-1' is unknown"),
        ("write_file", {"id": "a", "path": "/x", "content": "?", "encoding": "base64"}, "content is not base64"),
        ("search_files", {"id": "a", "pattern": ""}, "pattern is empty"),
        ("terminal_send", {"id": "a", "terminal_id": "t"}, "Nothing to send"),
        ("terminal_open", {"id": "a", "cols": 1000}, "cols: 1000 is out of range. Use 20 to 300"),
        ("terminal_snapshot", {"id": "a", "terminal_id": "t", "settle_ms": 0}, "settle_ms: 0 is out of range"),
        ("no_such_tool", {}, "There is no tool 'no_such_tool'. Available tools: create_sandbox,"),
    ],
)
async def test_bad_arguments_get_the_cause_and_the_way_out(
    edge: Edge, tool: str, arguments: dict[str, object], reason: str
) -> None:
    async with edge.client("alice") as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert reason in text_of(result)
    assert len(text_of(result)) < 600


@pytest.mark.parametrize("era", ERAS)
async def test_null_is_the_same_as_left_out_for_every_argument_of_every_tool(edge: Edge, era: Era) -> None:
    samples = {"string": "a", "integer": 1}
    async with edge.client("alice", era) as client:
        tools = (await client.list_tools()).tools
        assert len(tools) == len(TOOLS)

        async def told(tool: str, arguments: dict[str, object]) -> str:
            text = text_of(await client.call_tool(tool, arguments))
            # Where it takes effect, each call makes something new.
            return re.sub(r"request id \w+|[0-9a-f]{24}|\d{4}-\d\d-\d\dT[\d:.]+Z", "...", text)

        for tool in tools:
            properties, required = tool.input_schema["properties"], tool.input_schema.get("required", ())
            least: dict[str, object] = {
                name: properties[name].get("enum", [samples[properties[name]["type"]]])[0] for name in required
            }
            nulls = dict.fromkeys(properties, None)
            bare = await told(tool.name, least)
            assert "Arguments refused" not in bare, tool.name
            assert await told(tool.name, {**nulls, **least}) == bare, tool.name
            for name in required:
                assert f"{name} is missing" in await told(tool.name, {**least, name: None}), (tool.name, name)


async def test_an_unexpected_error_is_told_by_its_request_id_only(
    edge: Edge, empty: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fleet without this part is an example of whatever may break.
    monkeypatch.delattr(empty, "guest")
    async with edge.http("alice", **{"x-request-id": "find-me"}) as http:
        call = rpc("tools/call", {"name": "list_files", "arguments": {"id": "a"}}, 2)
        session = {"mcp-session-id": await open_session(http)}
        answer = answer_of(await http.post("/api/mcp", json=call, headers=session))
    assert answer["result"]["isError"]
    text = answer["result"]["content"][0]["text"]
    assert text == "Internal error; it has been logged. Tell the operator the request id find-me."


@pytest.mark.parametrize("era", ERAS)
async def test_resources_are_listed_and_read(edge: Edge, era: Era) -> None:
    async with edge.client("alice", era) as client:
        assert [str(item.uri) for item in (await client.list_resources()).resources] == ["casemate://sandboxes"]
        templates = [item.uri_template for item in (await client.list_resource_templates()).resource_templates]
        assert templates == ["casemate://sandbox/{id}", "casemate://sandbox/{id}/files/{+path}"]
        (content,) = (await client.read_resource("casemate://sandboxes")).contents
        assert json.loads(getattr(content, "text", "")) == {"total": 0, "sandboxes": []}
        with pytest.raises(Exception, match="There is no sandbox"):
            await client.read_resource("casemate://sandbox/nowhere")
