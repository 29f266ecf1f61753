"""Bob calls everything with alice's ids: each answer is the one that an id has which does not exist.

A route, WebSocket or tool that is not in a table here fails the test. A row has one call for each id that the route
takes, with `{name}` in place of the id; `NOTHING` takes no id of somebody's.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mcp_server.app import Services
from mcp_server.sandbox_api.names import sandbox_name
from mcp_server.settings import Settings
from tests.mcp_server.conftest import Assemble
from tests.mcp_server.edge import Edge, serving, text_of
from tests.mcp_server.host import SANDBOX, OneHost
from tests.mcp_server.people import ALICE

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a call sends besides its path."""

    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Mapping[str, Any] | None = None


PATH = Call(query={"path": "/tmp/none"})
TWO = Call(query={"from": "/tmp/none", "to": "/tmp/none2"})
PID = Call(body={"pid": 1})
COMMAND = Call(body={"command": "true"})
PLAIN = Call()
NOTHING: tuple[Call, ...] = ()

BOX, SNAPSHOT = "/api/sandboxes/{id}", "/api/snapshots/{snapshot}"
VOLUME = "/api/volumes/{volume}"
KEY, USER = "/api/orgs/apikeys/{key_id}", "/api/orgs/users"
SESSION = f"{BOX}/pty/sessions/{{session}}"
ROUTES: dict[tuple[str, str], tuple[Call, ...]] = {
    ("GET", "/api/users/me"): NOTHING,
    ("GET", USER): NOTHING,
    # An e-mail address is no id of an organisation's: whoever knows it may add the user.
    ("POST", USER): NOTHING,
    ("PATCH", f"{USER}/{{user_id}}"): (Call(body={"role": "owner"}),),
    ("DELETE", f"{USER}/{{user_id}}"): (PLAIN,),
    ("GET", "/api/orgs/apikeys"): NOTHING,
    ("POST", "/api/orgs/apikeys"): (Call(body={"keyName": "k", "userId": "{user_id}"}),),
    ("DELETE", KEY): (PLAIN,),
    ("POST", f"{KEY}/activate"): (Call(body={"isActive": False}),),
    ("PATCH", f"{KEY}/touch"): (PLAIN,),
    ("POST", "/api/operator/invitations"): (Call(body={"orgId": "{org_id}"}),),
    ("GET", "/api/operator/invitations"): NOTHING,
    ("DELETE", "/api/operator/invitations/{invitation_id}"): (PLAIN,),
    ("GET", "/api/operator/users"): (Call(query={"after": "{user_id}"}),),
    ("GET", "/api/orgs/quota"): NOTHING,
    ("GET", "/api/operator/quotas/{org_id}"): (PLAIN,),
    ("PATCH", "/api/operator/quotas/{org_id}"): (Call(body={"sandboxes": 0}),),
    ("POST", "/api/operator/templates"): NOTHING,
    ("GET", "/api/audit"): tuple(
        Call(query=query)
        for query in ({"org": "{org_id}"}, {"user": "{user_id}"}, {"sandbox": "{id}"}, {"key": "{key_id}"})
    ),
    ("GET", "/api/sandboxes"): NOTHING,
    ("POST", "/api/sandboxes"): (
        Call(body={"name": "a", "snapshot": "{snapshot}"}),
        Call(body={"name": "a", "image": "code", "volumes": [{"name": "{volume}", "path": "/data"}]}),
    ),
    ("GET", BOX): (PLAIN,),
    ("PATCH", BOX): (Call(body={"autoSleep": True}),),
    ("DELETE", BOX): (PLAIN,),
    ("POST", f"{BOX}/sleep"): (PLAIN,),
    ("POST", f"{BOX}/wake"): (PLAIN,),
    ("POST", f"{BOX}/start"): (PLAIN,),
    ("POST", f"{BOX}/stop"): (PLAIN,),
    ("POST", f"{BOX}/pause"): (PLAIN,),
    ("POST", f"{BOX}/snapshot"): (PLAIN,),
    ("POST", f"{BOX}/resume"): (PLAIN,),
    ("POST", f"{BOX}/restart"): (PLAIN,),
    ("GET", f"{BOX}/metrics"): (PLAIN,),
    ("GET", f"{BOX}/snapshots"): (PLAIN,),
    ("POST", f"{BOX}/snapshots"): (PLAIN,),
    ("POST", f"{BOX}/restore"): (Call(body={"snapshot": "{snapshot}"}), PLAIN),
    ("POST", f"{BOX}/fork"): (PLAIN,),
    ("GET", "/api/snapshots"): NOTHING,
    ("GET", SNAPSHOT): (PLAIN,),
    ("PATCH", SNAPSHOT): (Call(body={"name": "b"}),),
    ("DELETE", SNAPSHOT): (PLAIN,),
    ("GET", "/api/volumes"): NOTHING,
    ("POST", "/api/volumes"): NOTHING,
    ("GET", VOLUME): (PLAIN,),
    ("DELETE", VOLUME): (PLAIN,),
    ("POST", f"{VOLUME}/snapshot"): (PLAIN,),
    ("GET", f"{BOX}/volumes"): (PLAIN,),
    ("POST", f"{BOX}/volumes"): (Call(body={"name": "{volume}", "path": "/data"}),),
    ("DELETE", f"{BOX}/volumes/{{volume}}"): (PLAIN,),
    ("GET", f"{BOX}/network"): (PLAIN,),
    ("GET", f"{BOX}/network/log"): (PLAIN,),
    ("GET", "/api/images"): NOTHING,
    ("GET", "/api/images/{image}"): NOTHING,
    ("GET", "/api/images/name/{image}"): NOTHING,
    ("POST", f"{BOX}/exec"): (COMMAND,),
    ("POST", f"{BOX}/exec-stream"): (COMMAND,),
    ("POST", f"{BOX}/commands/run"): (COMMAND,),
    ("GET", f"{BOX}/commands/list"): (PLAIN,),
    ("POST", f"{BOX}/commands/stdin"): (Call(query={"pid": "1"}),),
    ("POST", f"{BOX}/commands/kill"): (PID,),
    ("POST", f"{BOX}/commands/attach"): (PID,),
    ("POST", f"{BOX}/commands/wait"): (PID,),
    ("POST", f"{BOX}/session-exec"): (
        Call(body={"action": "create"}),
        Call(body={"action": "exec", "sessionId": "s", "command": "true"}),
    ),
    ("POST", f"{BOX}/session-exec-stream"): (Call(body={"sessionId": "s", "command": "true"}),),
    ("GET", f"{BOX}/files"): (PLAIN,),
    ("GET", f"{BOX}/files/download"): (PATH,),
    ("POST", f"{BOX}/files/upload"): (PATH,),
    ("GET", f"{BOX}/files/archive"): (PATH,),
    ("PUT", f"{BOX}/files/archive"): (PATH,),
    ("DELETE", f"{BOX}/files"): (PATH,),
    ("POST", f"{BOX}/files/compress"): (PATH,),
    ("POST", f"{BOX}/files/extract"): (Call(query={"archive": "/tmp/none.zip"}),),
    ("POST", f"{BOX}/files/mkdir"): (PATH,),
    ("POST", f"{BOX}/files/create"): (PATH,),
    ("POST", f"{BOX}/files/copy"): (TWO,),
    ("POST", f"{BOX}/files/move"): (TWO,),
    ("POST", f"{BOX}/files/chmod"): (Call(query={"path": "/tmp/none", "mode": "600"}),),
    ("GET", f"{BOX}/files/head-tail"): (PATH,),
    ("GET", f"{BOX}/files/stat"): (PATH,),
    ("GET", f"{BOX}/files/du"): (PATH,),
    ("GET", f"{BOX}/files/search"): (Call(query={"pattern": "x"}),),
    ("POST", f"{BOX}/files/watch"): (Call(body={"path": "/tmp"}),),
    ("POST", f"{BOX}/pty/sessions"): (PLAIN,),
    ("GET", f"{BOX}/pty/sessions"): (PLAIN,),
    ("DELETE", SESSION): (PLAIN,),
    ("POST", f"{SESSION}/execute"): (COMMAND,),
    ("GET", f"{SESSION}/buffer"): (PLAIN,),
    ("POST", f"{SESSION}/resize"): (Call(body={"cols": 80, "rows": 24}),),
    ("GET", f"{BOX}/ports"): (PLAIN,),
    ("POST", f"{BOX}/ports"): (Call(body={"port": 8000}),),
    ("DELETE", f"{BOX}/ports/{{port}}"): (PLAIN,),
    ("PATCH", f"{BOX}/publish-ports"): (Call(body={"publishPorts": [8000]}),),
    ("GET", f"{BOX}/public-urls"): (PLAIN,),
    # A ticket's path opens nothing by itself.
    ("POST", "/api/tickets"): NOTHING,
    # A session is its caller's own name for one: there is no way to name somebody else's. What becomes of the same name
    # is in sandbox_api/test_owners.py.
    ("POST", "/execute"): NOTHING,
    ("POST", "/sessions"): NOTHING,
    ("GET", "/sessions"): NOTHING,
    ("GET", "/sessions/{session_id}"): (PLAIN,),
    ("DELETE", "/sessions/{session_id}"): NOTHING,
    ("GET", "/sessions/{session_id}/workspace"): NOTHING,
    ("DELETE", "/sessions/{session_id}/workspace"): (PATH,),
    ("GET", "/sessions/{session_id}/workspace/content"): (PATH,),
    ("PUT", "/sessions/{session_id}/workspace/content"): NOTHING,
    ("POST", "/sessions/{session_id}/workspace/upload"): NOTHING,
}
SOCKETS = {f"{BOX}/pty", SESSION, f"{BOX}/files/watch/{{watch}}/stream", f"{BOX}/forward/{{port}}"}
TOOLS_WITHOUT_IDS = {"create_sandbox", "list_sandboxes", "list_snapshots", "list_volumes", "change_volume"}
"""Those that take none, or also work without one; the ids that they can take are below."""

OPTIONAL_IDS: dict[str, dict[str, Any]] = {
    "create_sandbox": {"name": "a", "snapshot": "{snapshot}"},
    "list_snapshots": {"id": "{id}"},
    "list_volumes": {"id": "{id}"},
    "change_volume": {"action": "attach", "name": "{volume}", "id": "{id}", "path": "/data"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A server with alice's things, and bob, who has a sandbox of his own."""

    edge: Edge
    services: Services
    hers: dict[str, str]
    named: dict[str, str]
    unknown: dict[str, str]
    own: str

    def pairs(self, text: str) -> list[tuple[dict[str, str], dict[str, str]]]:
        """Pairs of ids to fill in: hers by id or by name, or only the last one hers; and such that do not exist."""
        pairs = [
            (self.hers, self.unknown),
            (self.named, self.unknown | {"id": "bax", "snapshot": "after", "volume": "date"}),
        ]
        if "{id}" in text and re.search(r"\{(session|watch|snapshot|port|volume)\}", text):
            pairs.append((self.hers | {"id": self.own}, self.unknown | {"id": self.own}))
        return pairs


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, sessions_per_owner=3, sandbox_api=True)


@pytest.fixture
async def world(assemble: Assemble, keys: dict[str, str], fleet_of_one: OneHost) -> AsyncGenerator[World]:
    """Alice has a sandbox with a snapshot, a terminal, a watch and a published port."""
    services = assemble(fleet_of_one)
    async with serving(services.web(), keys, services.identity.run) as edge:
        async with edge.http("alice") as alice, edge.http("bob") as bob:
            base = BOX.format(id=SANDBOX)
            snapshot = (await alice.post(f"{base}/snapshots", json={"name": "before"})).json()["data"]["id"]
            session = (await alice.post(f"{base}/pty/sessions")).json()["data"]["sessionId"]
            watch = (await alice.post(f"{base}/files/watch", json={"path": "/tmp"})).json()["data"]["sessionId"]
            volume = (await alice.post("/api/volumes", json={"name": "data", "sizeMB": 64})).json()["data"]["id"]
            key = (await alice.get("/api/orgs/apikeys")).json()[0]["id"]
            user = (await alice.get("/api/users/me")).json()["id"]
            assert (await alice.post(f"{base}/ports", json={"port": 8000})).status_code == 201
            own = (await bob.post("/api/sandboxes", json={"name": "bobs", "image": "code"})).json()["data"]["id"]
        hers = {
            "id": SANDBOX,
            "snapshot": snapshot,
            "volume": volume,
            "session": session,
            "watch": watch,
            "key_id": key,
            "user_id": user,
            "org_id": ALICE,
            "invitation_id": "e" * 24,
            "port": "8000",
            "session_id": sandbox_name("s"),
        }
        digits = dict(zip(hers, "0123456789abcdef", strict=False))
        unknown = {name: digits[name] * len(text) for name, text in hers.items()}
        unknown |= {"watch": str(uuid.UUID(int=0)), "port": "8001"}
        named = hers | {"id": "box", "snapshot": "before", "volume": "data"}
        yield World(edge=edge, services=services, hers=hers, named=named, unknown=unknown, own=own)


async def test_every_route_and_socket_is_in_the_tables(world: World) -> None:
    api = world.services.api(world.services.ports())
    routes = {(one.method, one.path) for one in api.closed}
    assert routes - set(ROUTES) == set(), "add these routes to ROUTES"
    assert set(ROUTES) - routes == set(), "remove these routes from ROUTES"
    assert {one.path for one in api.sockets} == SOCKETS


async def test_a_route_answers_alices_ids_as_unknown_ones(world: World) -> None:
    async with world.edge.http("bob") as bob:
        for (method, path), calls in ROUTES.items():
            for call in calls:
                for hers, unknown in world.pairs(f"{path}{call}"):
                    foreign = await _called(bob, method, path, call, hers)
                    missing = await _called(bob, method, path, call, unknown)
                    assert _blind(foreign, hers) == _blind(missing, unknown), (method, path, call)
                    assert foreign.status_code >= 400 or path == "/api/audit", (method, path, foreign.text)
    await _nothing_happened(world)


async def test_lists_have_nothing_of_alices(world: World) -> None:
    kinds = ("id", "snapshot", "volume", "session", "watch", "key_id", "user_id", "org_id")
    texts = [world.hers[name] for name in kinds]
    async with world.edge.http("bob") as bob:
        for (method, path), calls in ROUTES.items():
            if method == "GET" and not calls and "{" not in path:
                answer = await bob.get(path)
                assert not [text for text in texts if text in answer.text], path


async def test_a_socket_refuses_alices_ids_as_unknown_ones(world: World) -> None:
    for path in SOCKETS:
        for hers, unknown in world.pairs(path):
            foreign = await _refused(world, path.format_map(hers))
            missing = await _refused(world, path.format_map(unknown))
            assert _masked(foreign, hers) == _masked(missing, unknown), path
    await _nothing_happened(world)


async def test_a_tool_answers_alices_ids_as_unknown_ones(world: World) -> None:
    async with world.edge.client("bob") as bob:
        for tool in (await bob.list_tools()).tools:
            schema = tool.input_schema
            arguments = OPTIONAL_IDS.get(tool.name) or _arguments(schema)
            takes_id = {"{id}", "{snapshot}"} & {str(value) for value in arguments.values()}
            assert takes_id or tool.name in TOOLS_WITHOUT_IDS, f"add {tool.name} to TOOLS_WITHOUT_IDS, or an id to it"
            for hers, unknown in world.pairs(str(arguments)) if takes_id else ():
                foreign, missing = [await bob.call_tool(tool.name, _filled(arguments, ids)) for ids in (hers, unknown)]
                assert foreign.is_error, tool.name
                assert _masked(text_of(foreign), hers) == _masked(text_of(missing), unknown), tool.name
    await _nothing_happened(world)


async def _nothing_happened(world: World) -> None:
    """Look with alice's eyes."""
    async with world.edge.http("alice") as alice:
        box = (await alice.get(BOX.format(id=SANDBOX))).json()["data"]
        assert (box["status"], box["autoSleep"]) == ("running", True)
        assert (await alice.get(SNAPSHOT.format_map(world.hers))).json()["data"]["name"] == "before"
        assert (await alice.get(VOLUME.format_map(world.hers))).json()["data"]["attachments"] == []
        sessions = (await alice.get(f"{BOX}/pty/sessions".format(id=SANDBOX))).json()["data"]["sessions"]
        assert [session["id"] for session in sessions] == [world.hers["session"]]
        assert [key["isActive"] for key in (await alice.get("/api/orgs/apikeys")).json()] == [True]
        ports = (await alice.get(f"{BOX}/ports".format(id=SANDBOX))).json()["data"]
        assert [port["port"] for port in ports] == [8000]


async def _called(bob: httpx.AsyncClient, method: str, path: str, call: Call, ids: Mapping[str, str]) -> httpx.Response:
    query, body = _filled(call.query, ids), None if call.body is None else _filled(call.body, ids)
    return await bob.request(method, path.format_map(ids), params=query, json=body)


async def _refused(world: World, path: str) -> str:
    """The answer to a handshake that must fail."""
    headers = {"x-api-key": world.edge.keys["bob"]}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws{world.edge.url.removeprefix('http')}{path}", additional_headers=headers, proxy=None):
            pass
    response = refused.value.response
    assert response.status_code in {404, 409}, response.body
    return f"{response.status_code} {bytes(response.body or b'').decode()}"


def _filled(values: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    return {name: _replaced(value, ids) for name, value in values.items()}


def _replaced(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, ids) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return _filled(cast("dict[str, Any]", value), ids)
    return value.format_map(ids) if isinstance(value, str) else value


def _blind(answer: httpx.Response, ids: Mapping[str, str]) -> tuple[int, str]:
    """What an answer says, apart from the ids."""
    return answer.status_code, _masked(answer.text, ids)


def _masked(text: str, ids: Mapping[str, str]) -> str:
    """Return a text without the ids, and without the id of the request."""
    for name in sorted(ids, key=lambda name: -len(ids[name])):
        text = re.sub(rf"(?<!\w){ids[name]}(?!\w)", f"<{name}>", text)
    return re.sub(r'"requestId":"\w+"', "", text)


def _arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Values for all arguments that a tool requires, with ids in their places."""
    properties = cast("dict[str, dict[str, Any]]", schema["properties"])
    return {name: _value(name, properties[name]) for name in schema.get("required", ())}


def _value(name: str, schema: Mapping[str, Any]) -> object:
    if name in {"id", "snapshot"}:
        return f"{{{name}}}"
    if "enum" in schema:
        return schema["enum"][0]
    fitting: dict[str, object] = {
        "string": "/tmp/x",
        "integer": 1,
        "number": 1,
        "boolean": True,
        "array": [],
        "object": {},
    }
    return fitting[schema.get("type", "string")]
