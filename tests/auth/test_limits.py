"""Limits: who is counted, what is told, and that a flood of guesses disturbs nobody else."""

from __future__ import annotations

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from auth.address import address_of
from auth.counts import Counts
from auth.exchange import COUNTS, Exchange
from auth.gate import Gate
from auth.limits import Limits
from auth.principal import Principal
from auth.refusal import Refused
from storage.collection import Database
from storage.errors import StoreUnavailable
from tests.auth.clocks import Clocks
from tests.auth.rig import Rig
from tests.auth.spies import SpyCollection
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

PRINCIPAL = Principal(org_id="o", user_id="u", key_id="k")


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


def guess(number: int) -> str:
    return f"cm_{number:043d}"


async def ask(gate: Gate, key: str, *, address: str = "192.0.2.1") -> httpx.Response:
    transport = httpx.ASGITransport(gate, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://casemate") as client:
        return await client.get("/", headers={"X-API-Key": key})


def limited(rig: Rig, **limits: int) -> Gate:
    rig.limited.update(limits)
    rig.build()
    return rig.gate(APP)


def at_window_start(clocks: Clocks, window_s: int = 60) -> None:
    clocks.ms -= clocks.ms % (window_s * 1000)


async def test_every_answer_says_what_is_left(rig: Rig) -> None:
    at_window_start(rig.clocks)
    gate = limited(rig, requests=3)
    key = (await rig.key(*await rig.user("ada"))).plain
    rig.clocks.advance(10)
    for left in (2, 1, 0):
        answer = await ask(gate, key)
        assert answer.status_code == 200
        names = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
        assert [answer.headers[name] for name in names] == ["3", str(left), "50"]
    answer = await ask(gate, key)
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["ratelimit-remaining"]) == (
        429,
        "50",
        "0",
    )
    assert set(answer.json()) == {"error", "details"}
    rig.clocks.advance(50)
    assert (await ask(gate, key)).status_code == 200


async def test_keys_are_counted_apart(rig: Rig) -> None:
    gate = limited(rig, requests=1)
    user, org_id = await rig.user("ada")
    first, second = await rig.key(user, org_id), await rig.key(user, org_id)
    assert [(await ask(gate, key.plain)).status_code for key in (first, first, second)] == [200, 429, 200]


async def test_a_limit_of_zero_is_none(rig: Rig) -> None:
    gate = limited(rig, requests=0, refusals_per_minute=0)
    key = (await rig.key(*await rig.user("ada"))).plain
    for number in range(100):
        assert (await ask(gate, guess(number))).status_code == 401
    answer = await ask(gate, key)
    assert answer.status_code == 200
    assert "ratelimit-limit" not in answer.headers


async def test_websockets_count_too(rig: Rig) -> None:
    gate = limited(rig, requests=1)
    key = (await rig.key(*await rig.user("ada"))).plain
    codes: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, str]) -> None:
        codes.append(message["type"])

    async def accept(scope: Connection, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    gate = rig.gate(accept)
    for _ in range(2):
        scope = {"type": "websocket", "headers": [(b"x-api-key", key.encode())]}
        await gate(scope, receive, send)  # pyright: ignore[reportArgumentType] -- messages of one kind only
    assert codes == ["websocket.accept", "websocket.close"]


async def test_the_edge_may_answer_in_its_own_form(rig: Rig) -> None:
    limited(rig, requests=1)
    key = (await rig.key(*await rig.user("ada"))).plain
    told: list[tuple[int, list[tuple[bytes, bytes]]]] = []

    async def on_later(
        scope: Connection, receive: Receive, send: Send, refusal: Refused, headers: list[tuple[bytes, bytes]]
    ) -> None:
        told.append((refusal.retry_after_s, headers))
        await PlainTextResponse("wait", status_code=429)(scope, receive, send)

    gate = rig.gate(APP, on_later=on_later)
    await ask(gate, key)
    answer = await ask(gate, key)
    assert (answer.status_code, answer.text) == (429, "wait")
    ((wait_s, headers),) = told
    assert (b"retry-after", b"%d" % wait_s) in headers
    assert (b"ratelimit-limit", b"1") in headers


async def test_after_sixty_refusals_guesses_cost_no_read_and_good_keys_go_on(rig: Rig) -> None:
    gate = limited(rig)
    good, fresh = await rig.key(*await rig.user("ada")), await rig.key(*await rig.user("bob"))
    assert (await ask(gate, good.plain)).status_code == 200
    for number in range(60):
        assert (await ask(gate, guess(number))).status_code == 401
    rig.clocks.advance(5.1)
    before = rig.reads
    for number in range(200):
        answer = await ask(gate, guess(number))
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) <= 60
    assert rig.reads == before
    assert (await ask(gate, good.plain)).status_code == 200
    # A key that was not good within the last hour has to wait, or come from elsewhere.
    assert (await ask(gate, fresh.plain)).status_code == 429
    assert (await ask(gate, fresh.plain, address="192.0.2.2")).status_code == 200
    assert (await ask(gate, guess(0), address="192.0.2.2")).status_code == 401
    rig.clocks.advance(60)
    assert (await ask(gate, guess(0))).status_code == 401


async def test_who_presents_nothing_is_not_counted_as_guessing(rig: Rig) -> None:
    gate = limited(rig, refusals_per_minute=1)
    for _ in range(5):
        assert (await ask(gate, "")).status_code == 401
    assert (await ask(gate, guess(1))).status_code == 401
    assert (await ask(gate, guess(1))).status_code == 429
    assert (await ask(gate, "")).status_code == 401


async def test_a_key_that_was_good_and_is_revoked_is_a_guess_from_then_on(rig: Rig) -> None:
    gate = limited(rig, refusals_per_minute=1)
    user, org_id = await rig.user("ada")
    key = await rig.key(user, org_id)
    assert (await ask(gate, key.plain)).status_code == 200
    await rig.keys.revoke(org_id, key.record.id)
    assert (await ask(gate, key.plain)).status_code == 401
    assert (await ask(gate, key.plain)).status_code == 429


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::1", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (None, "unknown"),
        (("", 0), "unknown"),
        (("testclient", 1), "unknown"),
    ],
)
def test_an_address_is_an_ipv4_address_or_a_network_of_ipv6(client: tuple[str, int] | None, address: str) -> None:
    assert address_of({"type": "http", "client": client}) == address


async def test_counters_are_bounded(clocks: Clocks) -> None:
    counts = Counts(clock=clocks.epoch, capacity=100)
    for number in range(1000):
        counts.hit(f"key {number}", 60)
    assert len(counts) == 100
    assert counts.current("key 999")[0] == 1
    assert counts.current("key 0")[0] == 0


async def test_a_window_ends_for_all_at_once(clocks: Clocks) -> None:
    at_window_start(clocks)
    counts = Counts(clock=clocks.epoch)
    clocks.advance(59)
    assert counts.hit("k", 60) == (1, clocks.ms + 1000)
    assert counts.current("k") == (1, clocks.ms + 1000)
    clocks.advance(1)
    assert counts.current("k")[0] == 0
    assert counts.hit("k", 60)[0] == 1


async def test_servers_on_one_store_count_together(database: Database, clocks: Clocks) -> None:
    at_window_start(clocks)
    collection = await database.collection(COUNTS)
    counts = [Counts(clock=clocks.epoch) for _ in range(3)]
    exchanges = [Exchange(collection, it, clock=clocks.epoch) for it in counts]
    limits = [Limits(it, requests=10, clock=clocks.epoch) for it in counts]
    for turn in range(3):
        for limit in limits:
            for _ in range(turn + 1):
                assert (await limit.spend(PRINCIPAL)).passed
        for exchange in (*exchanges, *exchanges):
            await exchange.round()
        if turn == 1:
            break
    assert (await limits[0].spend(PRINCIPAL)).remaining == 0
    await exchanges[0].round()
    await exchanges[1].round()
    assert not (await limits[1].spend(PRINCIPAL)).passed
    clocks.advance(60)
    assert (await limits[1].spend(PRINCIPAL)).remaining == 9
    for exchange in exchanges:
        await exchange.round()
    assert (await limits[2].spend(PRINCIPAL)).remaining == 8


async def test_a_round_without_calls_writes_nothing(database: Database, clocks: Clocks) -> None:
    spy = SpyCollection(await database.collection(COUNTS))
    counts = Counts(clock=clocks.epoch)
    exchange = Exchange(spy, counts, clock=clocks.epoch)
    await exchange.round()
    counts.hit("k", 60)
    await exchange.round()
    await exchange.round()
    assert spy.writes == 1


async def test_while_the_store_is_gone_each_server_counts_alone_and_loses_nothing(
    database: Database, clocks: Clocks
) -> None:
    collection = await database.collection(COUNTS)
    spy = SpyCollection(collection)
    mine, other = Counts(clock=clocks.epoch), Counts(clock=clocks.epoch)
    exchange, reader = Exchange(spy, mine, clock=clocks.epoch), Exchange(collection, other, clock=clocks.epoch)
    mine.hit("k", 60)
    await exchange.round()
    mine.hit("k", 60)
    spy.failure = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await exchange.round()
    assert mine.current("k")[0] == 2
    spy.failure = None
    await exchange.round()
    await reader.round()
    assert other.current("k")[0] == 2


async def test_a_server_whose_counters_were_purged_writes_them_anew(database: Database, clocks: Clocks) -> None:
    collection = await database.collection(COUNTS)
    mine, other = Counts(clock=clocks.epoch), Counts(clock=clocks.epoch)
    exchange, reader = Exchange(collection, mine, clock=clocks.epoch), Exchange(collection, other, clock=clocks.epoch)
    mine.hit("k", 60)
    await exchange.round()
    for document in await collection.find(COUNTS.indexes[0]):
        await collection.delete(document["_id"])
    mine.hit("k", 60)
    for _ in range(2):
        await exchange.round()
    await reader.round()
    assert other.current("k")[0] == 2


async def test_the_exchange_outlives_a_store_that_fails(database: Database, clocks: Clocks) -> None:
    spy = SpyCollection(await database.collection(COUNTS))
    counts = Counts(clock=clocks.epoch)
    exchange = Exchange(spy, counts, clock=clocks.epoch)
    counts.hit("k", 60)
    spy.failure = StoreUnavailable("gone")
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: exchange.run(interval_s=0.001))
            while spy.writes < 2:
                await anyio.sleep(0.001)
            spy.failure = None
            while not await spy.count(COUNTS.indexes[0]):
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
