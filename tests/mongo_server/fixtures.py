"""Fixtures of a MongoDB server and of databases in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from storage.ids import new_id

from .driver import close_what_is_left
from .server import MongoServer, missing


@pytest.fixture(scope="session", autouse=True)
def _no_sockets_are_left() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        close_what_is_left(monkeypatch)
        yield


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """The address of a MongoDB server: the one that MONGO_TEST_URI names, or one of the session's own."""
    named = os.environ.get("MONGO_TEST_URI", "")
    if named:
        yield named
        return
    if lacking := missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI must test MongoDB, but {lacking}")
        pytest.skip(f"No MongoDB server: {lacking}, or set MONGO_TEST_URI")
    with MongoServer() as server:
        yield server.uri


@pytest.fixture
def mongo_name(mongo_uri: str) -> Iterator[str]:
    """The name of a database of the test's own, dropped after it."""
    name = f"casemate_test_{new_id()}"
    yield name
    with MongoClient[dict[str, object]](mongo_uri) as client:
        client.drop_database(name)
