"""VoidRun's compatibility checklist, by its numbers: what its clients rely on in commands, terminals, files and MCP.

The points about sandboxes, keys and images are in `test_checklist_sandboxes.py`. docs/compatibility.md names a test for
each of the 21.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.exceptions import ConnectionClosedOK

from tests.mcp_server.edge import ACCEPT, Edge, initialize
from tests.mcp_server.rest.conftest import BASE, Rest, data_of, events, shown_until
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

TOOLS_OF_VOIDRUN: Mapping[str, set[str]] = {
    "create_sandbox": {"name", "image", "cpu", "mem", "envVars", "autoSleep", "labels"},
    "list_sandboxes": {"page", "limit", "labels"},
    "get_sandbox": {"id"},
    "update_sandbox": {"id", "autoSleep"},
    "delete_sandbox": {"id"},
    "execute_command": {"id", "command", "timeout", "cwd", "env"},
    "read_file": {"id", "path"},
    "write_file": {"id", "path", "content"},
    "list_files": {"id", "path"},
    "create_directory": {"id", "path"},
    "delete_file": {"id", "path"},
    "move_file": {"id", "from", "to"},
    "file_info": {"id", "path"},
    "search_files": {"id", "path", "pattern"},
    "run_background_command": {"id", "command", "cwd", "env"},
    "list_processes": {"id"},
    "kill_process": {"id", "pid"},
    "run_code": {"id", "code", "language", "timeout", "cwd", "env"},
}


async def test_8_commands_are_flat_exec_and_files_enveloped_keys_and_images_bare(rest: Rest, place: Path) -> None:
    async with rest.http() as http:
        started = (await http.post(f"{BASE}/commands/run", json={"command": "true"})).json()
        assert (started["success"], started["command"]) == (True, "true")
        ended = (await http.post(f"{BASE}/commands/wait", json={"pid": started["pid"]})).json()
        assert ended == {"success": True, "exitCode": 0}
        assert isinstance((await http.get(f"{BASE}/commands/list")).json()["processes"], list)
        assert data_of(await http.post(f"{BASE}/exec", json={"command": "echo a"}))["stdout"] == "a\n"
        made = data_of(await http.post(f"{BASE}/files/mkdir", params={"path": f"{place}/d"}))
        assert made == {"stdout": "", "stderr": "", "exitCode": 0}
        assert data_of(await http.get(f"{BASE}/files", params={"path": str(place)}))["files"][0]["name"] == "d"
        assert isinstance((await http.get("/api/images")).json(), list)


async def test_11_a_terminal_sends_and_takes_raw_text_and_closes_when_its_shell_ends(rest: Rest) -> None:
    async with rest.socket("pty") as socket:
        assert (await shown_until(socket, "# ")).endswith("# ")
        await socket.send("echo $((6*7))\n")
        assert "42" in await shown_until(socket, "42")
        await socket.send("exit\n")
        with anyio.fail_after(PATIENCE_S), pytest.raises(ConnectionClosedOK):
            while True:
                assert isinstance(await socket.recv(), str)


async def test_12_events_are_lines_ended_by_a_blank_one_and_the_last_is_the_exit_as_json(rest: Rest) -> None:
    command = {"command": r"printf 'one\rtwo\nlast'; exit 3"}
    async with rest.http() as http:
        async with http.stream("POST", f"{BASE}/exec-stream", json=command) as answer:
            found = await events(answer.aiter_lines())
        whole = (await http.post(f"{BASE}/exec-stream", json=command)).text
    assert whole.endswith("\n\n")
    assert "\r" not in whole
    assert re.sub(r"\s", "", "".join(data for name, data in found if name == "stdout")) == "onetwolast"
    assert found[-1][0] == "exit"
    assert json.loads(found[-1][1])["exitCode"] == 3


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/sandboxes/nowhere", 404),
        ("POST", f"{BASE}/exec", 400),
        ("GET", f"{BASE}/files/download?path=/no/such/file", 404),
        ("GET", "/api/images/none", 404),
        ("DELETE", "/api/images", 405),
    ],
)
async def test_15_an_error_is_json_with_its_status(rest: Rest, method: str, path: str, status: int) -> None:
    async with rest.http() as http:
        answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]
    assert set(answer.json()) <= {"error", "details", "requestId"}


async def test_15_a_caller_without_a_key_is_told_in_voidruns_words(rest: Rest) -> None:
    async with rest.http("") as nobody:
        answer = await nobody.get("/api/sandboxes")
    assert (answer.status_code, answer.json()) == (
        401,
        {"error": "authentication required (X-API-Key or Bearer token)"},
    )


async def test_18_stat_is_json_with_a_hexadecimal_mode_and_du_a_size_and_the_path(rest: Rest, place: Path) -> None:
    (place / "f").write_text("text")
    (place / "f").chmod(0o640)
    async with rest.http() as http:
        facts = json.loads(data_of(await http.get(f"{BASE}/files/stat", params={"path": f"{place}/f"}))["stdout"])
        usage = data_of(await http.get(f"{BASE}/files/du", params={"path": str(place)}))["stdout"]
    assert (facts["mode"], facts["size"], facts["type"]) == ("81a0", 4, "regular file")
    assert isinstance(facts["mtime"], int)
    assert re.fullmatch(rf"[0-9.]+[KMG]?\t{re.escape(str(place))}\n", usage)


async def test_19_an_upload_is_the_raw_body_or_the_field_file_and_fails_by_its_status(rest: Rest, place: Path) -> None:
    async with rest.http() as http:
        upload = f"{BASE}/files/upload"
        raw = await http.post(upload, params={"path": f"{place}/raw"}, content=b"\0raw")
        form = await http.post(upload, params={"path": f"{place}/form"}, files={"file": ("name", b"\0form")})
        failed = await http.post(upload, params={"path": str(place)}, content=b"x")
    assert (raw.status_code, (place / "raw").read_bytes()) == (200, b"\0raw")
    assert (form.status_code, (place / "form").read_bytes()) == (200, b"\0form")
    assert failed.status_code == 409


async def test_20_what_fails_in_the_guest_is_answered_with_200_and_an_exit_code(rest: Rest, place: Path) -> None:
    calls: list[tuple[str, str, dict[str, str]]] = [
        ("POST", "chmod", {"path": f"{place}/no", "mode": "600"}),
        ("POST", "move", {"from": f"{place}/no", "to": f"{place}/x"}),
        ("GET", "stat", {"path": f"{place}/no"}),
    ]
    async with rest.http() as http:
        for method, call, query in calls:
            outcome = data_of(await http.request(method, f"{BASE}/files/{call}", params=query))
            assert outcome["exitCode"] != 0
            assert outcome["stderr"]


async def test_21_the_tools_have_voidruns_names_and_arguments(edge: Edge) -> None:
    async with edge.client("alice") as client:
        found = {tool.name: set(tool.input_schema["properties"]) for tool in (await client.list_tools()).tools}
    lacking = {name: arguments - found.get(name, set()) for name, arguments in TOOLS_OF_VOIDRUN.items()}
    assert lacking == {name: set() for name in TOOLS_OF_VOIDRUN}


async def test_21_a_charset_is_accepted_the_stream_is_200_and_a_session_is_its_keys_alone(edge: Edge) -> None:
    async with edge.http("alice") as alice, edge.http("bob") as bob:
        charset = {"content-type": "application/json; charset=utf-8"}
        opened = await alice.post("/api/mcp", content=json.dumps(initialize()), headers=charset)
        assert opened.status_code == 200
        session = {"mcp-session-id": opened.headers["mcp-session-id"], **ACCEPT}
        async with alice.stream("GET", "/api/mcp", headers=session) as stream:
            assert stream.status_code == 200
        foreign: httpx.Response = await bob.post("/api/mcp", json=initialize(), headers=session)
        assert foreign.status_code == 404
