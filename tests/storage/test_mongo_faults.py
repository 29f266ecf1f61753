"""The network and the server fail in the middle of a call: the right answer, or an error that says to try again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from storage.collection import CollectionSpec, Document, Index, StoredCollection
from storage.errors import DocumentMissing, DuplicateKey, StoreFull, StoreUnavailable, VersionConflict
from storage.mongo import MongoDatabase
from storage.mongo_link import AT_ONCE
from tests.mongo_server.proxy import NOT_PRIMARY, Fault, Proxy, proxied
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
BY_EMAIL = Index(name="by_email", fields=("email",), unique=True, sparse=True)
THINGS = CollectionSpec(name="things", indexes=(BY_OWNER, BY_EMAIL))
INTERRUPTED = {"ok": 0, "errmsg": "interrupted", "code": 11602, "codeName": "InterruptedDueToReplStateChange"}
TOO_LATE = {"ok": 0, "errmsg": "operation exceeded time limit", "code": 50, "codeName": "MaxTimeMSExpired"}
NO_MAJORITY = {"ok": 1, "n": 1, "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
# The same document goes in that has gone in: nobody could tell the two by their content.
FIRST: Document = {"_id": "a", "owner": "alice"}
STORED: Document = {**FIRST, "version": 1}
CHANGED: Document = {**STORED, "owner": "bob"}


@dataclass(frozen=True)
class Sides:
    """The same collection through the proxy and past it."""

    proxy: Proxy
    things: StoredCollection
    direct: StoredCollection


@pytest.fixture(autouse=True)
def _no_pause_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    # After a lost connection the driver waits half a second before it looks for the server again.
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)


@pytest.fixture
async def sides(mongo_uri: str, mongo_name: str) -> AsyncGenerator[Sides]:
    async with (
        proxied(mongo_uri) as proxy,
        MongoDatabase(mongo_uri, mongo_name) as direct,
        MongoDatabase(proxy.uri, mongo_name) as database,
    ):
        yield Sides(proxy, await database.collection(THINGS), await direct.collection(THINGS))


Call = Callable[[StoredCollection], Awaitable[object]]
CALLS: dict[str, tuple[str, list[Document], Call, object, Document | None]] = {
    # The command; what is stored before; the call; its result; what is stored after.
    "insert": ("insert", [], lambda things: things.insert(FIRST), STORED, STORED),
    "put": ("insert", [], lambda things: things.put({**FIRST, "version": 9}), {**FIRST, "version": 9}, None),
    "replace": ("update", [FIRST], lambda things: things.replace(CHANGED), {**CHANGED, "version": 2}, None),
    "delete": ("delete", [FIRST], lambda things: things.delete("a"), True, None),
    "delete a version": ("delete", [FIRST], lambda things: things.delete("a", version=1), True, None),
    "get": ("find", [FIRST], lambda things: things.get("a"), STORED, STORED),
    "find": ("find", [FIRST], lambda things: things.find(BY_OWNER), [STORED], STORED),
    "walk": ("find", [FIRST], lambda things: things.walk(), [STORED], STORED),
    "count": ("aggregate", [FIRST], lambda things: things.count(BY_OWNER), 1, STORED),
    "ping": ("update", [], lambda things: things.ping(), None, None),
}
FAULTS: dict[str, dict[str, Any]] = {
    "cut": {"reply": None},
    "not primary": {"reply": NOT_PRIMARY},
    "interrupted": {"reply": INTERRUPTED},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", CALLS)
async def test_one_lost_answer_changes_nothing_for_the_caller(
    sides: Sides, name: str, applied: bool, fault: str
) -> None:
    command, before, call, result, _ = CALLS[name]
    for document in before:
        await sides.direct.insert(document)
    sides.proxy.plan(Fault(command=command, applied=applied, **FAULTS[fault]))
    try:
        assert await call(sides.things) == result
    except StoreUnavailable as error:
        # A deleted document tells nobody who deleted it.
        assert name.startswith("delete")
        assert applied
        assert error.retryable
    assert sides.proxy.met == 1
    if name in {"insert", "put", "replace"}:
        assert await sides.direct.get("a") == result
    elif name.startswith("delete"):
        assert await sides.direct.get("a") is None


@pytest.mark.parametrize("fault", [*FAULTS, "too late", "no majority"])
@pytest.mark.parametrize("name", ["insert", "put", "replace", "delete", "delete a version", "ping"])
async def test_answers_lost_twice_end_in_an_error_to_try_again(sides: Sides, name: str, fault: str) -> None:
    command, before, call, result, _ = CALLS[name]
    for document in before:
        await sides.direct.insert(document)
    answers: dict[str, dict[str, Any]] = {
        **FAULTS,
        "too late": {"reply": TOO_LATE},
        "no majority": {"reply": NO_MAJORITY},
    }
    sides.proxy.plan(Fault(command=command, applied=False, times=2, **answers[fault]))
    with pytest.raises(StoreUnavailable) as caught:
        await call(sides.things)
    assert caught.value.retryable
    assert sides.proxy.met == 2
    assert await sides.direct.get("a") == (STORED if before else None)
    assert await call(sides.things) == result


@pytest.mark.parametrize("name", ["insert", "replace", "delete", "get"])
@pytest.mark.parametrize("applied", [False, True], ids=["never", "late"])
async def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_promised(
    sides: Sides, mongo_name: str, name: str, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, before, call, _, _ = CALLS[name]
    for document in before:
        await sides.direct.insert(document)
    async with MongoDatabase(sides.proxy.uri, mongo_name) as database:
        things = await database.collection(THINGS)
        sides.proxy.plan(Fault(command=command, applied=applied, hold=True))
        monkeypatch.setattr(database._link, "_within_s", 1.0)  # pyright: ignore[reportPrivateUsage]
        with anyio.fail_after(PATIENCE_S), pytest.raises(StoreUnavailable):
            await call(things)
        monkeypatch.undo()
        assert sides.proxy.met == 1
        assert await things.count(BY_OWNER) <= 1


async def test_many_at_once_on_a_slow_server_wait_for_their_turn(
    sides: Sides, mongo_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sides.direct.insert(FIRST)
    monkeypatch.setattr("storage.mongo_link.AT_ONCE", 2)
    async with MongoDatabase(sides.proxy.uri, mongo_name) as database:
        things = await database.collection(THINGS)
        one_by_one = anyio.Lock()

        async def slowly() -> None:
            async with one_by_one:
                await anyio.sleep(0.1)

        # All of them take longer than one may, and two at once a tenth of that.
        monkeypatch.setattr(database._link, "_within_s", 2.0)  # pyright: ignore[reportPrivateUsage]
        sides.proxy.plan(Fault(command="find", applied=True, late=True, meanwhile=slowly, times=40))
        found: list[Document | None] = []

        async def get() -> None:
            found.append(await things.get("a"))

        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(get)
        assert found == [STORED] * 40


async def test_many_at_once_on_a_server_that_is_gone_all_end(mongo_uri: str, mongo_name: str) -> None:
    async with proxied(mongo_uri) as proxy, MongoDatabase(proxy.uri, mongo_name) as database:
        things = await database.collection(THINGS)
        await proxy.stop()
        failed: list[StoreUnavailable] = []

        async def get() -> None:
            try:
                await things.get("a")
            except StoreUnavailable as error:
                failed.append(error)

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(5 * AT_ONCE):
                    tasks.start_soon(get)
        assert len(failed) == 5 * AT_ONCE
        await proxy.start()


@pytest.mark.parametrize("fault", [*FAULTS, "no majority"])
@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
async def test_many_whose_answer_was_lost_are_there_once(sides: Sides, applied: bool, fault: str) -> None:
    many = [{"_id": str(number), "owner": "alice"} for number in range(5)]
    answers: dict[str, dict[str, Any]] = {**FAULTS, "no majority": {"reply": NO_MAJORITY}}
    sides.proxy.plan(Fault(command="insert", applied=applied, **answers[fault]))
    there = await sides.things.insert_all(many)
    assert sides.proxy.met == 1
    # Of those that are there, nobody could say by whom.
    assert there == ([document["_id"] for document in many] if applied else [])
    assert await sides.direct.find(BY_OWNER) == [{**document, "version": 1} for document in many]


async def test_many_that_a_full_disk_refuses_are_told_apart_from_those_that_are_there(sides: Sides) -> None:
    taken = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key error collection: c.things index: _id_ dup"}
    full = {"index": 1, "code": 14031, "errmsg": "no space"}
    sides.proxy.plan(Fault(command="insert", applied=False, reply={"ok": 1, "n": 0, "writeErrors": [taken, full]}))
    with pytest.raises(StoreFull):
        await sides.things.insert_all([FIRST, {**FIRST, "_id": "b"}])


async def test_an_insert_of_somebody_else_is_not_taken_for_ones_own(sides: Sides) -> None:
    sides.proxy.plan(Fault(command="insert", applied=False, meanwhile=lambda: sides.direct.insert(FIRST)))
    with pytest.raises(DuplicateKey) as caught:
        await sides.things.insert(FIRST)
    assert caught.value.index == "_id"


async def test_a_unique_value_taken_meanwhile_is_told(sides: Sides) -> None:
    mine, other = {**FIRST, "email": "e"}, {**FIRST, "_id": "b", "email": "e"}
    sides.proxy.plan(Fault(command="insert", applied=False, meanwhile=lambda: sides.direct.insert(other)))
    with pytest.raises(DuplicateKey) as caught:
        await sides.things.insert(mine)
    assert caught.value.index == "by_email"
    assert await sides.direct.get("a") is None


async def test_an_insert_with_a_unique_value_is_not_its_own_rival(sides: Sides) -> None:
    sides.proxy.plan(Fault(command="insert", applied=True))
    assert await sides.things.insert({**FIRST, "email": "e"}) == {**STORED, "email": "e"}


async def test_a_replacement_by_somebody_else_is_not_taken_for_ones_own(sides: Sides) -> None:
    await sides.direct.insert(FIRST)
    sides.proxy.plan(Fault(command="update", applied=False, meanwhile=lambda: sides.direct.replace(CHANGED)))
    with pytest.raises(VersionConflict):
        await sides.things.replace(CHANGED)
    assert await sides.direct.get("a") == {**CHANGED, "version": 2}


async def test_an_applied_write_that_was_built_upon_is_never_called_a_conflict(sides: Sides) -> None:
    async def build() -> None:
        found = await sides.direct.get("a")
        assert found is not None
        await sides.direct.replace({**found, "owner": "carol"})

    sides.proxy.plan(Fault(command="insert", applied=True, meanwhile=build))
    with pytest.raises(StoreUnavailable):
        await sides.things.insert(FIRST)
    assert await sides.direct.get("a") == {"_id": "a", "owner": "carol", "version": 2}
    sides.proxy.plan(Fault(command="update", applied=True, meanwhile=build))
    with pytest.raises(StoreUnavailable):
        await sides.things.replace({"_id": "a", "owner": "dave", "version": 2})
    assert await sides.direct.get("a") == {"_id": "a", "owner": "carol", "version": 4}


async def test_an_applied_write_that_was_deleted_meanwhile_is_in_doubt(sides: Sides) -> None:
    sides.proxy.plan(Fault(command="insert", applied=True, meanwhile=lambda: sides.direct.delete("a")))
    # Repeated, it is there again: the deletion came between, and the insert is what the caller was promised.
    assert await sides.things.insert(FIRST) == STORED
    sides.proxy.plan(Fault(command="update", applied=True, meanwhile=lambda: sides.direct.delete("a")))
    with pytest.raises(StoreUnavailable):
        await sides.things.replace(CHANGED)
    with pytest.raises(DocumentMissing):
        await sides.things.replace(CHANGED)


async def test_a_deletion_by_somebody_else_is_never_claimed(sides: Sides) -> None:
    await sides.direct.insert(FIRST)
    sides.proxy.plan(Fault(command="delete", applied=False, meanwhile=lambda: sides.direct.delete("a")))
    with pytest.raises(StoreUnavailable):
        await sides.things.delete("a", version=1)
    assert await sides.things.delete("a", version=1) is False


async def test_a_purge_that_lost_its_answer_can_be_called_again(sides: Sides) -> None:
    for number in range(5):
        await sides.direct.insert({"_id": str(number), "owner": "alice"})
    sides.proxy.plan(Fault(command="delete", applied=True))
    with pytest.raises(StoreUnavailable):
        await sides.things.purge(BY_OWNER, {"owner": "alice"}, below="3")
    assert await sides.things.purge(BY_OWNER, {"owner": "alice"}, below="3") == 0
    assert await sides.direct.count(BY_OWNER) == 2


@pytest.mark.parametrize("command", ["find", "listCollections", "insert", "update"])
@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
async def test_opening_a_new_store_survives_a_lost_answer(
    mongo_uri: str, mongo_name: str, command: str, applied: bool
) -> None:
    async with proxied(mongo_uri) as proxy:
        proxy.plan(Fault(command=command, applied=applied))
        async with MongoDatabase(proxy.uri, mongo_name) as database:
            assert proxy.met == 1
            await database.ping()


async def test_a_marker_that_another_server_makes_at_the_same_time_is_taken_as_it_is(
    mongo_uri: str, mongo_name: str
) -> None:
    taken = {"ok": 1, "n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000 duplicate key error"}]}
    async with proxied(mongo_uri) as proxy:
        proxy.plan(Fault(command="insert", applied=True, reply=taken))
        async with MongoDatabase(proxy.uri, mongo_name) as database:
            assert proxy.met == 1
            await database.ping()


async def test_a_server_that_is_gone_fails_fast_and_is_used_again_when_it_is_back(
    mongo_uri: str, mongo_name: str
) -> None:
    async with proxied(mongo_uri) as proxy, MongoDatabase(proxy.uri, mongo_name) as database:
        things = await database.collection(THINGS)
        await things.insert(FIRST)
        await proxy.stop()
        calls = (things.get("a"), things.find(BY_OWNER), things.insert({**FIRST, "_id": "b"}), database.ping())
        outcomes: list[Exception] = []

        async def call(made: Awaitable[object]) -> None:
            try:
                await made
            except StoreUnavailable as error:
                outcomes.append(error)

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for made in calls:
                    tasks.start_soon(call, made)
        assert len(outcomes) == len(calls)
        await proxy.start()
        await database.ping()
        assert await things.get("a") == STORED
        assert await things.get("b") is None


async def test_reads_that_are_cancelled_leave_no_connection_behind(sides: Sides) -> None:
    for number in range(20):
        await sides.direct.insert({"_id": f"{number:02}", "owner": "alice"})
    for number in range(200):
        with anyio.move_on_after(number / 50_000):
            await sides.things.find(BY_OWNER)
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(sides.things.count, BY_OWNER)
    assert await sides.things.count(BY_OWNER) == 20
