"""Open streams and websockets end when the credential behind them stops being good, on a real server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from auth.api_key import NewKey
from auth.credentials import Credential
from auth.jwt import Tokens
from auth.principal import Principal
from auth.refusal import POLICY_VIOLATION
from auth.watch import ENDED, INTERVAL_S
from storage.errors import StoreUnavailable
from tests.auth.rig import Rig
from tests.auth.tokens import SECRET, shared
from tests.mcp_server.edge import serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


@dataclass(slots=True)
class Lasting:
    """An application whose answers last until they are cancelled.

    Attributes:
        rig: The server's parts.
        url: Where it is served.
        ended: How often an answer was cancelled.
    """

    rig: Rig
    url: str = ""
    ended: int = 0
    app: Starlette = field(init=False)

    def __post_init__(self) -> None:
        self.app = Starlette(
            routes=[
                Route("/events", self.events),
                Route("/download", self.download),
                Route("/slow", self.slow),
                WebSocketRoute("/socket", self.socket),
            ]
        )

    async def events(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self._lines(b"data: x\n\n"), media_type="text/event-stream")

    async def download(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self._lines(b"part"), media_type="application/octet-stream")

    async def slow(self, request: Request) -> PlainTextResponse:
        await self._for_ever()
        return PlainTextResponse("never")

    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await self._for_ever()

    async def _lines(self, line: bytes) -> AsyncGenerator[bytes]:
        yield line
        await self._for_ever()

    async def _for_ever(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.ended += 1

    def http(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"X-API-Key": key}, timeout=PATIENCE_S)


@asynccontextmanager
async def lasting(rig: Rig) -> AsyncGenerator[Lasting]:
    app = Lasting(rig)
    async with serving(rig.gate(app.app), beside=lambda: rig.watch.run(interval_s=0.01)) as edge:
        app.url = edge.url
        with anyio.fail_after(PATIENCE_S):
            yield app


@pytest.fixture
async def server(rig: Rig) -> AsyncIterator[Lasting]:
    async with lasting(rig) as app:
        yield app


@pytest.fixture
async def made(rig: Rig) -> NewKey:
    return await rig.key(*await rig.user("ada"))


async def revoke(rig: Rig, made: NewKey) -> None:
    await rig.keys.revoke(made.record.org_id, made.record.id)


async def test_a_stream_of_events_ends_whole_when_its_key_is_revoked(server: Lasting, made: NewKey) -> None:
    async with server.http(made.plain) as http, http.stream("GET", "/events") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: x"
        await revoke(server.rig, made)
        assert [line async for line in lines] == [""]
    assert server.ended == 1
    assert len(server.rig.watch) == 0


async def test_a_download_breaks_off_so_that_nobody_takes_it_for_whole(server: Lasting, made: NewKey) -> None:
    async with server.http(made.plain) as http, http.stream("GET", "/download") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"part"
        await revoke(server.rig, made)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
    assert server.ended == 1


async def test_an_answer_that_has_not_begun_becomes_401(server: Lasting, made: NewKey) -> None:
    answers: list[httpx.Response] = []

    async def ask(http: httpx.AsyncClient) -> None:
        answers.append(await http.get("/slow"))

    async with server.http(made.plain) as http, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, http)
        while not len(server.rig.watch):
            await anyio.sleep(0.001)
        await revoke(server.rig, made)
    assert (answers[0].status_code, answers[0].json()["error"]) == (401, ENDED)


@pytest.mark.parametrize("way", ["header", "address"])
async def test_a_websocket_is_closed_with_the_reason(server: Lasting, made: NewKey, way: str) -> None:
    headers = {"X-API-Key": made.plain} if way == "header" else {}
    address = f"ws{server.url[4:]}/socket" + ("" if headers else f"?apiKey={made.plain}")
    async with connect(address, additional_headers=headers, proxy=None) as socket:
        assert await socket.recv() == "hello"
        await revoke(server.rig, made)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (POLICY_VIOLATION, ENDED)
    while not server.ended:
        await anyio.sleep(0.001)


async def test_a_key_that_is_deleted_or_whose_maker_is_removed_ends_its_streams_and_no_others(server: Lasting) -> None:
    rig = server.rig
    ada, org_id = await rig.user("ada")
    bob, _ = await rig.user("bob")
    await rig.join(bob, org_id)
    deleted, bobs, stays = await rig.key(ada, org_id), await rig.key(bob, org_id), await rig.key(ada, org_id)
    over: list[str] = []

    async def follow(name: str, key: NewKey) -> None:
        async with server.http(key.plain) as http, http.stream("GET", "/events") as answer:
            async for _ in answer.aiter_raw():
                pass
        over.append(name)

    async with anyio.create_task_group() as tasks:
        for name, key in (("deleted", deleted), ("bobs", bobs), ("stays", stays)):
            tasks.start_soon(follow, name, key)
        while len(rig.watch) < 3:
            await anyio.sleep(0.001)
        await rig.keys.delete(org_id, deleted.record.id)
        while over != ["deleted"]:
            await anyio.sleep(0.001)
        await rig.accounts.organisations.remove(org_id, bob.id)
        while over != ["deleted", "bobs"]:
            await anyio.sleep(0.001)
        await rig.watch.round()
        assert over == ["deleted", "bobs"]
        tasks.cancel_scope.cancel()


async def test_what_another_server_revokes_ends_in_the_next_round(server: Lasting, made: NewKey) -> None:
    rig = server.rig
    other = Rig(spies=rig.spies, clocks=rig.clocks)
    async with server.http(made.plain) as http, http.stream("GET", "/events") as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        await revoke(other, made)
        rig.clocks.s += 1
        assert [line async for line in lines] == [""]
    assert INTERVAL_S < 5


async def test_a_round_reads_once_for_all_streams_of_a_key_and_not_for_short_calls(rig: Rig, made: NewKey) -> None:
    verified = await rig.authenticator.authenticate(Credential(key=made.plain))
    scope = {"type": "http"}

    async def send(message: object) -> None:
        raise AssertionError(message)

    before = rig.reads
    with rig.watch.opened(scope, send, verified, []), rig.watch.opened(scope, send, verified, []):
        await rig.watch.round()
        assert rig.reads == before
        rig.clocks.advance(1)
        await rig.watch.round()
        # The key, the organisation, the user.
        assert rig.reads == before + 3


async def test_streams_of_tokens_and_of_keys_end_when_they_expire(rig: Rig) -> None:
    rig.options["tokens"] = Tokens(secret=SECRET, clock=rig.clocks.epoch)
    rig.build()
    ada, org_id = await rig.user("ada")
    ends_ms = rig.clocks.ms + 60_000
    key = await rig.key(ada, org_id, expires_ms=ends_ms)
    token = shared({"sub": ada.id, "exp": ends_ms // 1000})
    async with lasting(rig) as server:
        for headers in ({"X-API-Key": key.plain}, {"Authorization": f"Bearer {token}"}):
            async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
                async with http.stream("GET", "/events") as answer:
                    lines = answer.aiter_lines()
                    await anext(lines)
                    rig.clocks.ms = ends_ms
                    rig.clocks.s += 1
                    assert [line async for line in lines] == [""]
                assert (await http.get("/events")).status_code == 401
            rig.clocks.ms = ends_ms - 60_000


async def test_a_store_that_fails_ends_nothing(rig: Rig, made: NewKey) -> None:
    verified = await rig.authenticator.authenticate(Credential(key=made.plain))
    spy = rig.spies["api_keys"]
    spy.failure = StoreUnavailable("gone")

    async def send(message: object) -> None:
        raise AssertionError(message)

    with rig.watch.opened({"type": "http"}, send, verified, []) as stream:
        rig.clocks.advance(1)
        await rig.watch.round()
        assert not stream.ended
        spy.failure = None
        await revoke(rig, made)
        await rig.watch.round()
        assert stream.ended


async def test_a_websocket_that_cannot_be_closed_any_more_keeps_nobody_else_open(rig: Rig, made: NewKey) -> None:
    verified = await rig.authenticator.authenticate(Credential(key=made.plain))

    async def gone(message: object) -> None:
        raise OSError("the client left")

    websocket = {"type": "websocket"}
    with (
        rig.watch.opened(websocket, gone, verified, []) as first,
        rig.watch.opened(websocket, gone, verified, []) as two,
    ):
        await revoke(rig, made)
        await rig.watch.round()
        assert [stream.cancel.cancel_called for stream in (first, two)] == [True, True]


async def test_who_calls_without_a_credential_in_local_mode_is_never_ended(rig: Rig) -> None:
    rig.options["local"] = Principal(org_id="a" * 24, user_id="b" * 24)
    rig.build()
    async with (
        lasting(rig) as server,
        httpx.AsyncClient(base_url=server.url) as http,
        http.stream("GET", "/events") as answer,
    ):
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: x"
        rig.clocks.advance(3600)
        await rig.watch.round()
        assert server.ended == 0


async def test_short_answers_pass_as_they_are(server: Lasting, made: NewKey) -> None:
    async with server.http(made.plain) as http:
        answer = await http.get("/nothing")
    assert answer.status_code == 404
    assert len(server.rig.watch) == 0
