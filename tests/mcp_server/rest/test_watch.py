"""Watching files over REST and a WebSocket."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.mcp_server.host import ALICE, SANDBOX, OneHost
from tests.mcp_server.rest.conftest import BASE, Rest, data_of, rest_server
from tests.vmm.hypervisor.host_driver import guest_of
from tests.waiting import PATIENCE_S, until
from vmm.calls import watches

pytestmark = pytest.mark.anyio

WATCH = f"{BASE}/files/watch"


async def begun(http: httpx.AsyncClient, place: Path, **fields: object) -> str:
    answer = await http.post(WATCH, json={"path": str(place), **fields})
    assert answer.json()["message"] == "watch started"
    return data_of(answer)["sessionId"]


def stream(session: str) -> str:
    """The path of a session's socket."""
    return f"files/watch/{session}/stream"


async def refused(rest: Rest, session: str, who: str = "alice") -> int:
    """The status with which a socket is refused; 101 if it is not."""
    try:
        async with rest.socket(stream(session), who):
            return 101
    except InvalidStatus as answer:
        return answer.response.status_code


def queues(fleet: OneHost) -> int:
    """How many queues of events the sandbox's agent has."""
    (guest,) = guest_of(fleet.box.running.process)
    found = 0
    for descriptor in Path(f"/proc/{guest.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += "inotify" in str(descriptor.readlink())
    return found


@asynccontextmanager
async def watched(rest: Rest, place: Path, **fields: object) -> AsyncGenerator[ClientConnection]:
    """Watch a directory for the length of a block."""
    async with rest.http() as http:
        session = await begun(http, place, **fields)
    async with rest.socket(stream(session)) as socket:
        yield socket


async def next_of(socket: ClientConnection) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE_S):
        frame = await socket.recv()
    assert isinstance(frame, str), "VoidRun's clients parse texts"
    return json.loads(frame)


async def seen(socket: ClientConnection, kind: str, path: Path) -> dict[str, Any]:
    """Read events up to one."""
    while True:
        event = await next_of(socket)
        if (event["type"], event["path"]) == (kind, str(path)):
            return event


async def end_of(socket: ClientConnection) -> tuple[list[dict[str, Any]], int, str]:
    """All other messages, and how the server closes."""
    found: list[dict[str, Any]] = []
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            found.append(await next_of(socket))
    assert closed.value.rcvd is not None
    return found, closed.value.rcvd.code, closed.value.rcvd.reason


async def kill(fleet: OneHost) -> None:
    await fleet.kill(ALICE, SANDBOX)


async def delete(fleet: OneHost) -> None:
    await fleet.sandboxes.delete(ALICE, SANDBOX)


async def test_10_a_session_is_a_uuid_and_its_frames_are_json_with_type_and_path(
    rest: Rest, http: httpx.AsyncClient, place: Path
) -> None:
    session = await begun(http, place)
    assert str(uuid.UUID(session)) == session
    async with rest.socket(stream(session)) as socket:
        (place / "a").touch()
        with anyio.fail_after(PATIENCE_S):
            frame = await socket.recv()
    assert isinstance(frame, str)
    event = json.loads(frame)
    assert (event["type"], event["path"]) == ("created", f"{place}/a")


async def test_a_file_is_seen_from_its_making_to_its_end(rest: Rest, place: Path) -> None:
    async with watched(rest, place) as socket:
        (place / "a").write_text("hello")
        made = await next_of(socket)
        assert made.pop("timestamp").endswith("Z")
        assert made == {"type": "created", "path": f"{place}/a", "size": 5, "isDir": False}
        (place / "a").write_text("longer than before")
        assert (await seen(socket, "modified", place / "a"))["size"] == 18
        (place / "a").chmod(0o600)
        await seen(socket, "chmod", place / "a")
        (place / "a").rename(place / "b")
        assert (await seen(socket, "renamed", place / "b"))["oldPath"] == f"{place}/a"
        (place / "b").unlink()
        await seen(socket, "deleted", place / "b")


async def test_nothing_between_the_answer_and_the_socket_is_missed(
    rest: Rest, http: httpx.AsyncClient, place: Path
) -> None:
    session = await begun(http, place)
    (place / "early").touch()
    async with rest.socket(stream(session)) as socket:
        await seen(socket, "created", place / "early")


async def test_the_servers_own_writes_are_seen_without_their_drafts(
    rest: Rest, http: httpx.AsyncClient, place: Path
) -> None:
    async with watched(rest, place, ignoreHidden=False) as socket:
        for content, kind in (("one", "created"), ("two", "modified")):
            answer = await http.post(f"{BASE}/files/upload", params={"path": f"{place}/up"}, content=content)
            assert answer.status_code == 200
            event = await next_of(socket)
            assert (event["type"], event["path"], event["size"]) == (kind, f"{place}/up", 3)


async def test_directories_below_are_watched_only_on_request(rest: Rest, place: Path) -> None:
    async with watched(rest, place) as flat, watched(rest, place, recursive=True) as deep:
        (place / "d" / "e").mkdir(parents=True)
        (place / "d" / "e" / "f").touch()
        (place / "last").touch()
        for path in (place / "d", place / "d" / "e", place / "d" / "e" / "f"):
            await seen(deep, "created", path)
        assert (await next_of(flat))["path"] == f"{place}/d"
        assert (await next_of(flat))["path"] == f"{place}/last"


async def test_hidden_names_are_seen_only_on_request(rest: Rest, place: Path) -> None:
    async with watched(rest, place) as usual, watched(rest, place, ignoreHidden=False) as all_:
        (place / ".hidden").touch()
        (place / "shown").touch()
        await seen(all_, "created", place / ".hidden")
        assert (await next_of(usual))["path"] == f"{place}/shown"


async def test_the_end_of_the_directory_is_told_and_closes_the_socket(rest: Rest, place: Path) -> None:
    async with watched(rest, place) as socket:
        place.rmdir()
        events, code, reason = await end_of(socket)
    assert [(event["type"], event["path"]) for event in events] == [("deleted", str(place))]
    assert (code, reason) == (1000, "it was deleted")


async def test_a_watch_goes_on_after_a_sleep_and_tells_the_gap(rest: Rest, fleet_of_one: OneHost, place: Path) -> None:
    async with watched(rest, place) as socket:
        (place / "before").touch()
        await seen(socket, "created", place / "before")
        await fleet_of_one.lifecycle.sleep(ALICE, SANDBOX)
        (place / "meanwhile").touch()
        await fleet_of_one.lifecycle.wake(ALICE, SANDBOX)
        gap = await seen(socket, "overflow", place)
        assert "slept" in gap["reason"]
        (place / "after").touch()
        assert (await next_of(socket))["path"] == f"{place}/after"


async def test_a_watch_that_cannot_begin_again_says_so(rest: Rest, fleet_of_one: OneHost, place: Path) -> None:
    async with watched(rest, place) as socket:
        await fleet_of_one.lifecycle.sleep(ALICE, SANDBOX)
        place.rmdir()
        await fleet_of_one.lifecycle.wake(ALICE, SANDBOX)
        ((last,), code, reason) = await end_of(socket)
    assert "No such file" in last["error"]
    assert (code, reason) == (1011, last["error"])


async def test_the_end_of_the_machine_is_the_end_of_the_watch(
    rest: Rest, http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path
) -> None:
    unclaimed = await begun(http, place)
    async with watched(rest, place) as socket:
        await fleet_of_one.kill(ALICE, SANDBOX)
        ((last,), code, _) = await end_of(socket)
    assert last["error"] == "Failed to connect to watch session"
    assert code == 1011
    async with rest.socket(stream(unclaimed)) as socket:
        ((last,), code, _) = await end_of(socket)
    assert last["error"] == "Failed to connect to watch session"


async def test_the_end_of_the_sandbox_is_the_end_of_the_watch(
    rest: Rest, http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path
) -> None:
    async with watched(rest, place) as socket:
        await http.delete(BASE)
        events, code, reason = await end_of(socket)
    assert (events, code, reason) == ([], 1000, "the sandbox was deleted")
    await until(lambda: len(fleet_of_one.watches) == 0)


@pytest.mark.parametrize(("end", "status"), [(kill, 409), (delete, 404)])
async def test_a_watch_whose_sandbox_ends_before_it_begins_is_refused(
    http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path, end: Callable[[OneHost], Awaitable[None]], status: int
) -> None:
    with fleet_of_one.stopped():
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                assert (await http.post(WATCH, json={"path": str(place)})).status_code == status

            tasks.start_soon(ask)
            await until(lambda: len(fleet_of_one.watches) == 1)
            await end(fleet_of_one)
    assert len(fleet_of_one.watches) == 0


async def test_a_second_socket_takes_a_session_over(rest: Rest, http: httpx.AsyncClient, place: Path) -> None:
    session = await begun(http, place)
    async with rest.socket(stream(session)) as first, rest.socket(stream(session)) as second:
        assert await end_of(first) == ([], 1000, "another client has come")
        assert (await next_of(second))["type"] == "overflow"
        (place / "a").touch()
        await seen(second, "created", place / "a")


@pytest.mark.parametrize("broken", [False, True], ids=["closed", "broken"])
async def test_a_client_may_come_back_to_its_session_and_is_told_of_the_gap(
    rest: Rest, http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path, broken: bool
) -> None:
    session = await begun(http, place)
    async with rest.socket(stream(session)) as socket:
        (place / "before").touch()
        await seen(socket, "created", place / "before")
        if broken:
            socket.transport.abort()
    await until(lambda: len(fleet_of_one.watches) == 0)
    await until(lambda: queues(fleet_of_one) == 0)
    (place / "meanwhile").touch()
    async with rest.socket(stream(session)) as socket:
        gap = await next_of(socket)
        assert gap.keys() == {"type", "path", "timestamp", "reason"}
        assert (gap["type"], gap["path"]) == ("overflow", str(place))
        assert "to the client broke" in gap["reason"]
        (place / "after").touch()
        assert (await next_of(socket))["path"] == f"{place}/after"


async def test_a_session_to_which_nobody_comes_back_ends(
    rest: Rest, http: httpx.AsyncClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await begun(http, place)
    monkeypatch.setattr(watches, "_UNCLAIMED_S", 0.05)
    async with rest.socket(stream(session)):
        pass

    async def is_gone() -> bool:
        return await refused(rest, session) == 404

    await until(is_gone, look_s=0.5)  # Each look that finds it keeps it.


async def test_a_session_without_a_client_ends(
    http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "_UNCLAIMED_S", 0.05)
    await begun(http, place)
    await until(lambda: len(fleet_of_one.watches) == 0)
    await until(lambda: queues(fleet_of_one) == 0)


async def test_a_sandbox_has_a_bounded_number_of_watches_without_those_that_were_left(
    rest: Rest, http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path
) -> None:
    left = await begun(http, place)
    async with rest.socket(stream(left)):
        pass
    await until(lambda: len(fleet_of_one.watches) == 0)
    for _ in range(watches.MOST):
        await begun(http, place)
    answer = await http.post(WATCH, json={"path": str(place)})
    assert answer.status_code == 409
    assert f"{watches.MOST} watches already" in answer.json()["error"]
    assert await refused(rest, left) == 409
    assert len(fleet_of_one.watches) == watches.MOST


async def test_of_the_sessions_that_were_left_the_oldest_make_room(
    rest: Rest, http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path
) -> None:
    sessions: list[str] = []
    for _ in range(watches.MOST + 1):
        sessions.append(await begun(http, place))
        async with rest.socket(stream(sessions[-1])):
            pass
        await until(lambda: len(fleet_of_one.watches) == 0)
    assert await refused(rest, sessions[0]) == 404
    async with rest.socket(stream(sessions[1])) as socket:
        assert (await next_of(socket))["type"] == "overflow"


async def test_a_request_that_wakes_the_sandbox_begins_one_watch(
    rest: Rest, fleet_of_one: OneHost, place: Path
) -> None:
    await fleet_of_one.lifecycle.sleep(ALICE, SANDBOX)
    async with watched(rest, place) as socket:
        (place / "one").mkdir()
        (place / "two").mkdir()
        assert [(await next_of(socket))["path"] for _ in range(2)] == [f"{place}/one", f"{place}/two"]
    await until(lambda: queues(fleet_of_one) == 0)


async def test_a_client_that_comes_while_the_sandbox_sleeps_waits_for_it(
    rest: Rest, http: httpx.AsyncClient, fleet_of_one: OneHost, place: Path
) -> None:
    session = await begun(http, place)
    await fleet_of_one.lifecycle.sleep(ALICE, SANDBOX)
    async with rest.socket(stream(session)) as socket:
        assert len(fleet_of_one) == 0, "a socket wakes nothing"
        await fleet_of_one.lifecycle.wake(ALICE, SANDBOX)
        await seen(socket, "overflow", place)


async def test_a_client_that_leaves_among_many_events_leaves_nothing(
    rest: Rest, fleet_of_one: OneHost, place: Path
) -> None:
    async with watched(rest, place) as socket:
        for number in range(3000):
            (place / f"{number}").touch()
        await next_of(socket)
        socket.transport.abort()
    await until(lambda: len(fleet_of_one.watches) == 0)
    await until(lambda: queues(fleet_of_one) == 0)


async def test_a_server_that_stops_ends_its_watches(fleet_of_one: OneHost, place: Path) -> None:
    async with rest_server(fleet_of_one) as rest, rest.http() as http:
        await begun(http, place)
        socket = await rest.socket(stream(await begun(http, place)))
    with anyio.fail_after(PATIENCE_S):
        await socket.wait_closed()
    await until(lambda: len(fleet_of_one.watches) == 1)


async def test_a_path_is_watched_as_it_was_given(rest: Rest, place: Path) -> None:
    (place / "d").mkdir()
    (place / "file").touch()
    for given in (f"{place}/d/..", f"{place}/".removeprefix("/"), f"{place}/file"):
        async with watched(rest, Path(given)) as socket:
            (place / "file").write_text("x")
            (place / "file").write_text("")
            event = await next_of(socket)
            shown = f"/{given}".replace("//", "/").rstrip("/")
            assert event["path"] == (shown if given.endswith("file") else f"{shown}/file")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "path is required"),
        ({"path": ""}, 400, "path"),
        ({"path": "/a\0"}, 400, "NUL"),
        ({"path": "/" + "x" * 5000}, 400, "4095"),
        ({"path": 5}, 400, "path=5"),
        ({"path": "/tmp", "recursive": "yes"}, 400, "recursive='yes'"),
        ({"path": "/tmp", "ignoreHidden": 1}, 400, "ignoreHidden=1"),
        ({"path": "/no/such/place"}, 404, "No such file"),
        ({"path": "no/such/place"}, 404, "/no/such/place"),
        ({"path": "/etc/passwd/below"}, 409, "Not a directory"),
    ],
)
async def test_what_cannot_be_watched_is_refused(
    http: httpx.AsyncClient, fleet_of_one: OneHost, body: dict[str, object], status: int, says: str
) -> None:
    answer = await http.post(WATCH, json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]
    assert len(fleet_of_one.watches) == 0


async def test_a_malformed_request_wakes_nothing(http: httpx.AsyncClient, fleet_of_one: OneHost) -> None:
    await fleet_of_one.lifecycle.sleep(ALICE, SANDBOX)
    assert (await http.post(WATCH, json={"path": 5})).status_code == 400
    assert len(fleet_of_one) == 0
    assert (await http.post(WATCH, json={"path": "/"})).status_code == 200
    assert len(fleet_of_one) == 1


async def test_a_foreign_watch_is_answered_as_an_unknown_one(rest: Rest, http: httpx.AsyncClient, place: Path) -> None:
    session = await begun(http, place)
    answers: list[tuple[int, str]] = []
    for one in (session, str(uuid.uuid4())):
        with pytest.raises(InvalidStatus) as refused:
            async with rest.socket(stream(one), "bob"):
                pass
        body = refused.value.response.body
        assert body is not None
        answers.append((refused.value.response.status_code, json.loads(body)["error"]))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    async with rest.http("bob") as bob:
        assert (await bob.post(WATCH, json={"path": str(place)})).status_code == 404
    async with rest.socket(stream(session), "reader"):
        pass


@pytest.mark.parametrize("session", ["nothing", "%00", "0" * 500, str(uuid.UUID(int=0))])
async def test_an_unknown_session_is_refused_before_the_handshake(rest: Rest, session: str) -> None:
    assert await refused(rest, session) == 404


async def test_a_plain_request_is_told_to_upgrade(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{WATCH}/{uuid.uuid4()}/stream")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


async def test_what_a_client_sends_is_ignored(rest: Rest, place: Path) -> None:
    async with watched(rest, place) as socket:
        await socket.send("{")
        await socket.send(b"\0" * 1000)
        (place / "a").touch()
        await seen(socket, "created", place / "a")
