"""Terminals over REST and WebSockets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mcp_server.rest.screen_text import from_offset
from tests.mcp_server.rest.command_calls import gone, there
from tests.mcp_server.rest.conftest import BASE, Rest, data_of, shown_until
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

SESSIONS = f"{BASE}/pty/sessions"


async def opened(http: httpx.AsyncClient, **fields: object) -> str:
    data = data_of(await http.post(SESSIONS, json=fields))
    assert data["createdAt"].endswith("Z")
    return data["sessionId"]


async def sessions(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    return data_of(await http.get(SESSIONS))["sessions"]


async def none_left(http: httpx.AsyncClient) -> None:
    with anyio.fail_after(PATIENCE_S):
        while await sessions(http):
            await anyio.sleep(0.02)


async def end_of(socket: ClientConnection) -> tuple[str, int, str]:
    """Everything that is still shown, and how the server closes."""
    shown = ""
    try:
        with anyio.fail_after(PATIENCE_S):
            while True:
                frame = await socket.recv()
                shown += frame if isinstance(frame, str) else frame.decode()
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return shown, closed.rcvd.code, closed.rcvd.reason


async def test_what_is_typed_is_shown_and_the_end_tells_the_exit_code(rest: Rest) -> None:
    async with rest.socket("pty?cols=91&rows=33") as socket:
        await socket.send("stty size; printf 'done %s\\n' $((6*7))\n")
        assert "33 91" in await shown_until(socket, "done 42")
        await socket.send(b"exit 3\n")
        _, code, reason = await end_of(socket)
        assert (code, reason) == (1000, "exit:3")


async def test_the_root_prompt_ends_as_clients_expect(rest: Rest) -> None:
    async with rest.socket("pty") as socket:
        await shown_until(socket, "# ")


@pytest.fixture
async def slow_shell(http: httpx.AsyncClient) -> None:
    """A login shell that greets, and takes a while until its prompt."""
    profile = "echo welcome; sleep 0.2"
    await http.post(f"{BASE}/exec", json={"command": f'echo "{profile}" > ~/.bash_profile'})


@pytest.mark.usefixtures("slow_shell")
async def test_a_new_session_is_answered_with_its_prompt_there(http: httpx.AsyncClient) -> None:
    session = await opened(http)
    assert data_of(await http.get(f"{SESSIONS}/{session}/buffer"))["output"].endswith("# ")


@pytest.mark.usefixtures("slow_shell")
async def test_a_socket_opens_with_its_prompt_there(rest: Rest) -> None:
    async with rest.socket("pty") as socket:
        frame = await socket.recv()
        assert isinstance(frame, str)
        assert frame.endswith("# ")


async def test_a_shell_that_never_prompts_is_answered_all_the_same(http: httpx.AsyncClient) -> None:
    await http.post(f"{BASE}/exec", json={"command": "echo exec sleep 87.102 > ~/.bash_profile"})
    session = await opened(http)
    assert data_of(await http.get(f"{SESSIONS}/{session}/buffer"))["output"] == ""
    await http.delete(f"{SESSIONS}/{session}")


async def test_an_ephemeral_shell_dies_with_its_socket(rest: Rest) -> None:
    async with rest.http() as http:
        async with rest.socket("pty") as socket:
            await socket.send("sleep 87.101\n")
            await there("87.101")
            assert len(await sessions(http)) == 1
        await gone("87.101")
        await none_left(http)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x83\x80\0\0\0\0", id="an opcode that is reserved"),
        pytest.param(b"\x81\x01a", id="not masked"),
        pytest.param(b"\x89\xfe\x00\x7e" + bytes(4 + 126), id="a ping that is too long"),
        pytest.param(b"\x80\x81\0\0\0\0a", id="a continuation of nothing"),
    ],
)
async def test_a_broken_frame_ends_a_socket_and_its_shell(rest: Rest, frame: bytes) -> None:
    async with rest.socket("pty") as socket:
        await socket.send("sleep 87.205\n")
        await there("87.205")
        socket.transport.write(frame)
        _, code, _ = await end_of(socket)
        assert code == 1002
    await gone("87.205")
    async with rest.http() as http:
        await none_left(http)


async def test_a_session_survives_its_sockets_and_replays_its_output(rest: Rest, http: httpx.AsyncClient) -> None:
    session = await opened(http, cols=100, rows=40)
    async with rest.socket(f"pty/sessions/{session}") as socket:
        await socket.send("X=kept; printf '%s-%s\\n' fi rst\n")
        await shown_until(socket, "fi-rst")
        (listed,) = await sessions(http)
        assert listed["id"] == session
        assert (listed["alive"], listed["clients"], listed["cols"], listed["rows"]) == (True, 1, 100, 40)
    with anyio.fail_after(PATIENCE_S):
        while (await sessions(http))[0]["clients"]:
            await anyio.sleep(0.02)
    async with rest.socket(f"pty/sessions/{session}") as socket:
        await shown_until(socket, "fi-rst")
        await socket.send("printf '%s-%s\\n' $X again\n")
        await shown_until(socket, "kept-again")
    async with rest.socket(f"pty/sessions/{session}?replay=false") as socket:
        await socket.send("printf '%s-%s\\n' la ter\n")
        assert "kept-again" not in await shown_until(socket, "la-ter")


async def test_fields_that_are_null_count_as_left_out(http: httpx.AsyncClient) -> None:
    session = await opened(http, **dict.fromkeys(("cols", "rows", "command", "argv", "cwd", "env")))
    (listed,) = await sessions(http)
    assert (listed["id"], listed["cols"], listed["rows"]) == (session, 80, 24)


async def test_two_sockets_see_the_same_terminal(rest: Rest, http: httpx.AsyncClient) -> None:
    session = await opened(http)
    async with rest.socket(f"pty/sessions/{session}") as one, rest.socket(f"pty/sessions/{session}") as other:
        await one.send("printf '%s-%s\\n' to both\n")
        for socket in (one, other):
            await shown_until(socket, "to-both")


async def test_a_command_in_a_session_ends_it(rest: Rest, http: httpx.AsyncClient, place: Path) -> None:
    fields = {"argv": ["sh", "-c", 'pwd; echo "$A;$0"; exit 7', "a b"], "cwd": str(place), "env": {"A": "1 2"}}
    session = await opened(http, **fields)
    async with rest.socket(f"pty/sessions/{session}") as socket:
        shown, code, reason = await end_of(socket)
    assert shown.splitlines() == [str(place), "1 2;a b"]
    assert (code, reason) == (1000, "exit:7")
    (listed,) = await sessions(http)
    assert (listed["alive"], listed["exitCode"]) == (False, 7)


async def test_characters_survive_being_split_between_frames(rest: Rest, http: httpx.AsyncClient) -> None:
    session = await opened(
        http, command=r"printf '\303'; sleep 0.3; printf '\274\360\237'; sleep 0.3; printf '\230\200\n'"
    )
    async with rest.socket(f"pty/sessions/{session}") as socket:
        shown, _, _ = await end_of(socket)
    assert shown == "ü😀\r\n"


async def test_typed_characters_may_be_split_between_frames(rest: Rest, http: httpx.AsyncClient) -> None:
    session = await opened(http, command="read line; printf 'got %s' \"$line\"")
    async with rest.socket(f"pty/sessions/{session}") as socket:
        for part in (b"\xc3", b"\xbc", b"\n"):
            await socket.send(part)
        shown, _, _ = await end_of(socket)
    assert shown.endswith("got ü")


async def test_bytes_come_as_they_are_where_they_are_asked_for(rest: Rest, http: httpx.AsyncClient) -> None:
    session = await opened(http, command=r"printf '\377\000\303'")
    received = b""
    async with rest.socket(f"pty/sessions/{session}?binary=true") as socket:
        with anyio.fail_after(PATIENCE_S), pytest.raises(ConnectionClosed):
            while True:
                frame = await socket.recv()
                assert isinstance(frame, bytes)
                received += frame
    assert received == b"\xff\x00\xc3"


async def test_a_paste_larger_than_one_call_arrives_whole(rest: Rest, http: httpx.AsyncClient) -> None:
    session = await opened(http, command="stty raw -echo; echo ready; head -c 2500000 | sha256sum")
    async with rest.socket(f"pty/sessions/{session}") as socket:
        await shown_until(socket, "ready")
        await socket.send(b"x" * 2_500_000)
        shown, _, _ = await end_of(socket)
    assert hashlib.sha256(b"x" * 2_500_000).hexdigest() in shown


async def test_a_session_is_typed_into_read_resized_and_deleted(http: httpx.AsyncClient) -> None:
    session = await opened(http)
    resized = await http.post(f"{SESSIONS}/{session}/resize", json={"cols": 50, "rows": 20})
    assert resized.json()["message"] == "Terminal resized"
    sent = await http.post(f"{SESSIONS}/{session}/execute", json={"command": "stty size"})
    assert sent.json()["message"] == "Command sent"
    with anyio.fail_after(PATIENCE_S):
        while "20 50" not in (data := data_of(await http.get(f"{SESSIONS}/{session}/buffer")))["output"]:
            await anyio.sleep(0.05)
    assert data["success"] is True
    deleted = await http.delete(f"{SESSIONS}/{session}")
    assert deleted.json() == {"status": "success", "message": "Session deleted"}
    assert await sessions(http) == []
    for method, path, body in (
        ("DELETE", "", None),
        ("GET", "/buffer", None),
        ("POST", "/resize", {"cols": 1, "rows": 1}),
        ("POST", "/execute", {"command": "x"}),
    ):
        answer = await http.request(method, f"{SESSIONS}/{session}{path}", json=body)
        assert answer.status_code == 404, path


async def test_a_deleted_session_closes_its_sockets(rest: Rest, http: httpx.AsyncClient) -> None:
    session = await opened(http)
    async with rest.socket(f"pty/sessions/{session}") as socket:
        await shown_until(socket, "# ")
        await http.delete(f"{SESSIONS}/{session}")
        _, code, reason = await end_of(socket)
    assert code == 1000
    assert reason.startswith(("exit:", "closed"))


@pytest.mark.parametrize(
    ("path", "who", "status", "says"),
    [
        ("pty/sessions/nothing", "alice", 404, "nothing"),
        ("pty/sessions/%00", "alice", 404, ""),
        ("pty?cols=0", "alice", 400, "cols"),
        ("pty?rows=1001", "alice", 400, "rows"),
        ("pty?cols=wide", "alice", 400, "cols='wide'"),
        ("pty?binary=perhaps", "alice", 400, "binary"),
        ("pty", "reader", 403, "scope run"),
        ("pty", "", 401, "authentication"),
        ("pty", "bob", 404, "Sandbox not found"),
        ("pty/sessions/x", "bob", 404, "Sandbox not found"),
    ],
)
async def test_a_socket_that_cannot_be_is_refused_before_its_handshake(
    rest: Rest, path: str, who: str, status: int, says: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with rest.socket(path, who):
            pass
    assert refused.value.response.status_code == status
    body = refused.value.response.body
    assert body is not None
    assert says in json.loads(body)["error"]


async def test_a_socket_leaves_its_facts_for_the_audit(rest: Rest) -> None:
    async with rest.socket("pty") as socket:
        await socket.send("exit\n")
        await end_of(socket)
    with anyio.fail_after(PATIENCE_S):
        while not any(state.get("action") == "terminal.shell" for state in rest.states):
            await anyio.sleep(0.02)


def test_half_a_character_at_the_beginning_of_what_is_kept_is_left_out() -> None:
    data = "ü😀a".encode()
    assert from_offset(0, data[1:]) == data[1:]
    assert from_offset(1, data[1:]) == data[2:]
    assert from_offset(3, data[3:]) == b"a"
    assert from_offset(9, b"\x80\x80") == b""
