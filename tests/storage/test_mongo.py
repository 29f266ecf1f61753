"""The MongoDB store: who may have it, what is refused, and that its password is nowhere."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure, WriteError

from storage.collection import CollectionSpec, Document, Index, StoredCollection
from storage.errors import (
    DuplicateKey,
    InvalidDocument,
    InvalidQuery,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNewer,
    StoreReadOnly,
    StoreUnavailable,
)
from storage.ids import new_id
from storage.mongo import FORMAT, MARKER, MongoDatabase
from storage.mongo_errors import redacted, translated
from tests.mongo_server.proxy import Fault, proxied
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

BY_OWNER = Index(name="by_owner", fields=("owner", "_id"))
BY_EMAIL = Index(name="by_email", fields=("email",), unique=True, sparse=True)
BY_NAME = Index(name="by_name", fields=("name",), unique=True)
BY_TEAM = Index(name="by_team", fields=("team",), sparse=True)
THINGS = CollectionSpec(name="things", indexes=(BY_OWNER, BY_EMAIL, BY_NAME, BY_TEAM))
SECRET = "pässwörd/with:@everything?&%"
ENCODED = "p%C3%A4ssw%C3%B6rd%2Fwith%3A%40everything%3F%26%25"


@pytest.fixture
async def things(mongo: MongoDatabase) -> AsyncGenerator[StoredCollection]:
    async with mongo:
        yield await mongo.collection(THINGS)


@contextmanager
def looking(uri: str, name: str) -> Generator[Any]:
    """The database, as its server shows it."""
    with MongoClient[Document](uri) as client:
        yield client[name]


def nodes(uri: str) -> str:
    return uri.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0]


def thing(**more: Any) -> Document:
    document_id = new_id()
    return {"_id": document_id, "owner": "alice", "name": document_id, **more}


async def test_documents_are_stored_as_they_are_besides_the_mark_of_their_write(
    things: StoredCollection, mongo_uri: str, mongo_name: str
) -> None:
    stored = await things.insert(thing(labels={"team": "blue"}, at_ms=1_700_000_000_000))
    with looking(mongo_uri, mongo_name) as seen:
        (raw,) = seen["things"].find()
    mark = raw.pop("%write")
    assert raw == stored
    assert len(mark) == 24
    await things.replace(stored)
    with looking(mongo_uri, mongo_name) as seen:
        (raw,) = seen["things"].find()
    assert raw["%write"] != mark


async def test_indexes_are_made_as_declared_and_queries_name_them(
    things: StoredCollection, mongo_uri: str, mongo_name: str
) -> None:
    with looking(mongo_uri, mongo_name) as seen:
        made = {
            name: (dict(index["key"]), index.get("unique", False), index.get("sparse", False))
            for name, index in seen["things"].index_information().items()
        }
    assert made == {
        "_id_": ({"_id": 1}, False, False),
        "by_owner": ({"owner": 1, "_id": 1}, False, False),
        "by_email": ({"email": 1}, True, True),
        "by_name": ({"name": 1}, True, False),
        "by_team": ({"team": 1, "_id": 1}, False, False),
    }
    assert things.spec == THINGS


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ([("owner", 1)], {}),
        ([("_id", 1), ("owner", 1)], {}),
        ([("owner", -1), ("_id", 1)], {}),
        ([("owner", 1), ("_id", 1)], {"unique": True}),
        ([("owner", 1), ("_id", 1)], {"sparse": True}),
        ([("owner", 1), ("_id", 1)], {"expireAfterSeconds": 60}),
    ],
)
async def test_an_index_of_that_name_that_is_another_is_named_with_both_declarations(
    mongo: MongoDatabase, mongo_uri: str, mongo_name: str, key: list[tuple[str, int]], options: dict[str, Any]
) -> None:
    async with mongo:
        with looking(mongo_uri, mongo_name) as seen:
            seen["things"].create_index(key, name="by_owner", **options)
        with pytest.raises(InvalidQuery, match="by_owner of things") as caught:
            await mongo.collection(THINGS)
    assert str(key) in str(caught.value)
    assert str([("owner", 1), ("_id", 1)]) in str(caught.value)


async def test_a_unique_index_over_documents_that_are_not_is_refused(mongo: MongoDatabase) -> None:
    async with mongo:
        things = await mongo.collection(CollectionSpec(name="things"))
        for _ in range(2):
            await things.insert(thing(name="same"))
        with pytest.raises(DuplicateKey):
            await mongo.collection(CollectionSpec(name="things", indexes=(BY_NAME,)))


async def test_many_servers_may_open_and_declare_a_new_store_at_once(mongo_uri: str, mongo_name: str) -> None:
    made: list[Document] = []

    async def serve(number: int) -> None:
        async with MongoDatabase(mongo_uri, mongo_name) as database:
            things = await database.collection(THINGS)
            made.append(await things.insert(thing(number=number)))

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(serve, number)
    with looking(mongo_uri, mongo_name) as seen:
        assert list(seen[MARKER].find()) == [{"_id": "format", "version": FORMAT}]
        assert seen["things"].count_documents({}) == len(made) == 12


async def test_a_store_of_a_newer_release_is_refused_and_left_as_it_is(mongo_uri: str, mongo_name: str) -> None:
    with looking(mongo_uri, mongo_name) as seen:
        seen[MARKER].insert_one({"_id": "format", "version": FORMAT + 1})
    database = MongoDatabase(mongo_uri, mongo_name)
    with pytest.raises(StoreNewer, match=f"format {FORMAT + 1}.*supports {FORMAT}.*newer release"):
        await database.open()
    with pytest.raises(StoreUnavailable, match="not open"):
        await database.ping()
    with looking(mongo_uri, mongo_name) as seen:
        assert seen[MARKER].find_one() == {"_id": "format", "version": FORMAT + 1}


async def test_a_store_that_a_newer_release_takes_over_is_not_ready_any_more(
    mongo: MongoDatabase, mongo_uri: str, mongo_name: str
) -> None:
    async with mongo:
        await mongo.ping()
        with looking(mongo_uri, mongo_name) as seen:
            seen[MARKER].update_one({"_id": "format"}, {"$set": {"version": FORMAT + 1}})
        with pytest.raises(StoreNewer):
            await mongo.ping()
        with looking(mongo_uri, mongo_name) as seen:
            seen.client.drop_database(mongo_name)
        with pytest.raises(StoreCorrupt, match="dropped"):
            await mongo.ping()


async def test_another_programs_database_is_refused_and_left_as_it_is(mongo_uri: str, mongo_name: str) -> None:
    with looking(mongo_uri, mongo_name) as seen:
        seen["precious"].insert_one({"_id": 1})
    with pytest.raises(StoreCorrupt, match="another program"):
        await MongoDatabase(mongo_uri, mongo_name).open()
    with looking(mongo_uri, mongo_name) as seen:
        assert seen.list_collection_names() == ["precious"]


async def test_a_second_opening_is_refused_and_harms_nothing(mongo: MongoDatabase) -> None:
    async with mongo:
        with pytest.raises(StoreUnavailable, match="already open"):
            await mongo.open()
        await mongo.ping()


async def test_a_collection_works_again_when_its_database_is_opened_again(mongo: MongoDatabase) -> None:
    async with mongo:
        things = await mongo.collection(THINGS)
        stored = await things.insert(thing())
    with pytest.raises(StoreUnavailable):
        await things.get(stored["_id"])
    async with mongo:
        assert await things.get(stored["_id"]) == stored


async def test_a_document_that_grows_beyond_what_the_server_takes_is_refused_before_it_is_sent(
    things: StoredCollection,
) -> None:
    # As JSON it is small enough.
    huge = [1] * 3_000_000
    with pytest.raises(InvalidDocument, match="too large"):
        await things.insert(thing(huge=huge))
    stored = await things.insert(thing())
    with pytest.raises(InvalidDocument, match="too large"):
        await things.replace({**stored, "huge": huge})
    assert await things.walk() == [stored]


async def test_a_purge_takes_as_many_as_it_may_in_several_steps(things: StoredCollection) -> None:
    for number in range(1203):
        await things.insert({**thing(), "_id": f"{number:04}"})
    assert await things.purge(BY_OWNER, {"owner": "alice"}, below="1201", limit=1100) == 1100
    assert await things.purge(BY_OWNER, {"owner": "alice"}, below="1201", limit=1100) == 101
    assert [found["_id"] for found in await things.walk()] == ["1201", "1202"]


async def test_a_purge_spares_what_was_changed_after_it_was_found(mongo_uri: str, mongo_name: str) -> None:
    by_age = Index(name="by_age", fields=("at_ms",))
    spec = CollectionSpec(name="aging", indexes=(by_age,))
    async with (
        MongoDatabase(mongo_uri, mongo_name) as direct,
        proxied(mongo_uri) as proxy,
        MongoDatabase(proxy.uri, mongo_name) as database,
    ):
        aging, past = await database.collection(spec), await direct.collection(spec)
        for number in range(3):
            await past.insert({"_id": str(number), "at_ms": number})

        async def touch() -> None:
            found = await past.get("1")
            assert found is not None
            await past.replace({**found, "at_ms": 99})

        proxy.plan(Fault(command="delete", applied=True, meanwhile=touch, late=True))
        assert await aging.purge(by_age, below=10) == 2
        assert proxy.met == 1
        assert [found["_id"] for found in await aging.walk()] == ["1"]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://db.example.org:27017", "mongodb://db.example.org:27017"),
        (f"mongodb://user:{ENCODED}@db:27017,other:1/admin?tls=true", "mongodb://db:27017,other:1"),
        ("mongodb+srv://user:secret@cluster.example.org/?appName=secret", "mongodb+srv://cluster.example.org"),
        ("mongodb://user:sec@ret@db", "mongodb://db"),
        ("mongodb://user:sec/secret@db/", "mongodb://db"),
        ("mongodb://user:secret?@db/", "mongodb://db"),
        ("user:secret@db", "(no MongoDB address)"),
        ("secret", "(no MongoDB address)"),
        ("postgres://user:secret@db", "(no MongoDB address)"),
    ],
)
def test_an_address_in_a_message_has_neither_user_nor_password(uri: str, shown: str) -> None:
    assert redacted(uri) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "secret",
        "user:secret@db",
        "http://user:secret@db",
        "mongodb://",
        "mongodb://user:sec@ret@db",
        "mongodb://user:1234/secret@db",
        "mongodb://user:secret?@db/",
        "mongodb://user:secret@db:port/",
        "mongodb://user:secret@db:99999/",
        "mongodb://user:secret@db/?tlss=true",
        "mongodb://user:secret@db/?tls=secret",
        "mongodb://user:secret@db/?authMechanism=secret",
        "mongodb://user:secret@db/?serverSelectionTimeoutMS=secret",
        "mongodb://user:secret@db/bad name:secret",
    ],
)
async def test_an_address_that_cannot_be_one_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(StoreError) as caught:
        await MongoDatabase(uri, "casemate").open()
    text = "".join(traceback.format_exception(caught.value))
    shown = text.rpartition("storage.errors.")[2]
    assert "secret" not in shown
    assert "MongoDB" in shown or "mongodb://" in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a/b", "$a", "a\0b", "x" * 64, "é"])
def test_a_name_that_no_database_can_have_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="name"):
        MongoDatabase("mongodb://127.0.0.1", name)


@pytest.mark.parametrize("server", ["gone", "refusing"])
async def test_the_password_is_in_no_message_no_log_and_no_representation(
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    unused_port: int,
    server: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    host = f"127.0.0.1:{unused_port}" if server == "gone" else nodes(request.getfixturevalue("mongo_uri"))
    database = MongoDatabase(f"mongodb://user:{ENCODED}@{host}/?authSource=admin", "casemate", within_s=1.0)
    with pytest.raises(StoreError) as caught:
        await database.open()
    # A wrong password does not become right by trying again.
    assert caught.value.retryable is (server == "gone")
    texts = [
        repr(database),
        str(caught.value),
        repr(caught.value),
        *traceback.format_exception(caught.value),
        *(record.getMessage() for record in caplog.records),
        *capfd.readouterr(),
    ]
    assert len(texts) > 5
    for text in texts:
        for secret in (SECRET, ENCODED, "pässwörd", "everything"):
            assert secret not in text


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        # Bound and not listening: nobody else gets it, and it refuses connections.
        yield held.getsockname()[1]


async def test_a_server_that_is_not_there_is_told_within_seconds(unused_port: int) -> None:
    database = MongoDatabase(f"mongodb://127.0.0.1:{unused_port}", "casemate", within_s=0.5)
    with anyio.fail_after(PATIENCE_S), pytest.raises(StoreUnavailable, match=f"127.0.0.1:{unused_port}") as caught:
        await database.open()
    assert caught.value.retryable
    assert len(str(caught.value)) < 300
    await database.aclose()


@pytest.mark.parametrize(
    ("code", "writing", "kind", "retryable"),
    [
        (13, True, StoreReadOnly, False),
        (13, False, StoreError, False),
        (18, False, StoreError, False),
        (14031, True, StoreFull, False),
        (10107, True, StoreUnavailable, True),
        (11602, True, StoreUnavailable, True),
        (50, False, StoreUnavailable, True),
        (91, False, StoreUnavailable, True),
        (2, False, StoreError, False),
        (None, True, StoreError, False),
    ],
)
def test_an_answer_of_the_server_is_the_stores_own_error(
    code: int | None, writing: bool, kind: type[StoreError], retryable: bool
) -> None:
    quoted = OperationFailure("quotes a secret document", code, {"codeName": "Name", "errmsg": "secret"})
    error = translated("mongodb://db", quoted, writing=writing)
    assert type(error) is kind
    assert error.retryable is retryable
    assert "mongodb://db" in str(error)
    assert "secret" not in str(error)
    assert type(translated("mongodb://db", WriteError("x", code, {}), writing=writing)) is kind


@pytest.mark.parametrize(
    ("message", "index"),
    [
        ('E11000 duplicate key error collection: db.users index: by_email dup key: { email: "secret" }', "by_email"),
        ('E11000 duplicate key error collection: db.users index: _id_ dup key: { _id: "secret" }', "_id"),
        ("E11000 duplicate key error collection: db.users index: db.users.$by_email dup key: {}", "by_email"),
        ("E11000 duplicate key error collection: db.users index: by_email collation: {} dup key: {}", "by_email"),
    ],
)
def test_a_duplicate_names_its_index_and_not_its_value(message: str, index: str) -> None:
    error = translated("mongodb://db", DuplicateKeyError(message, 11000, {"errmsg": message}), writing=True)
    assert isinstance(error, DuplicateKey)
    assert error.index == index
    assert "users" in str(error)
    assert "secret" not in str(error)


REFUSED: Mapping[str, Any] = {"ok": 0, "errmsg": "secret", "codeName": "Name"}
ASKS: list[tuple[str, Callable[[StoredCollection], Awaitable[object]]]] = [
    ("insert", lambda things: things.insert(thing())),
    ("update", lambda things: things.replace({**thing(), "version": 1})),
    ("delete", lambda things: things.delete("x")),
    ("update", lambda things: things.ping()),
]


@pytest.mark.parametrize(("code", "kind"), [(13, StoreReadOnly), (14031, StoreFull)])
@pytest.mark.parametrize(("command", "ask"), ASKS)
async def test_a_write_that_the_server_refuses_is_told_at_once(
    mongo_uri: str,
    mongo_name: str,
    command: str,
    ask: Callable[[StoredCollection], Awaitable[object]],
    code: int,
    kind: type[StoreError],
) -> None:
    async with proxied(mongo_uri) as proxy, MongoDatabase(proxy.uri, mongo_name) as database:
        things = await database.collection(THINGS)
        proxy.plan(Fault(command=command, applied=False, reply={**REFUSED, "code": code}, times=9))
        with pytest.raises(kind) as caught:
            await ask(things)
        assert proxy.met == 1
        assert "secret" not in str(caught.value)
