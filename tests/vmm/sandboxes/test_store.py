from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from storage.ids import new_id
from storage.sqlite import SqliteDatabase
from vmm.errors import Conflict, HostExhausted, Unavailable
from vmm.sandboxes import store as module
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.store import SANDBOXES, SandboxStore

pytestmark = pytest.mark.anyio

RIVALS = 60


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[SqliteDatabase]:
    async with SqliteDatabase(tmp_path / "casemate.db") as database:
        yield database


@pytest.fixture
async def store(database: SqliteDatabase) -> SandboxStore:
    return SandboxStore(await database.collection(SANDBOXES), host="here")


def new(owner: str = "alice", name: str = "box") -> Sandbox:
    return Sandbox.new(new_id(), owner, SandboxSpec(name=name, env={"TOKEN": "t"}, labels={"a": "b"}), now_ms=7)


async def kept(store: SandboxStore, sandbox: Sandbox) -> Sandbox:
    await store.insert(sandbox)
    return sandbox


async def test_a_record_is_read_as_it_was_written(store: SandboxStore) -> None:
    sandbox = await kept(store, new())
    assert await store.get("alice", sandbox.id) == sandbox
    assert await store.find(sandbox.id) == sandbox


async def test_another_users_sandbox_is_found_only_without_an_owner(store: SandboxStore) -> None:
    sandbox = await kept(store, new("alice"))
    assert await store.get("bob", sandbox.id) is None
    assert await store.named("bob", sandbox.name) == []
    assert await store.owned("bob") == []
    assert await store.find(sandbox.id) == sandbox


async def test_an_owners_sandboxes_come_newest_first(store: SandboxStore) -> None:
    made = [await kept(store, new(name=f"box-{number}")) for number in range(5)]
    await kept(store, new("bob"))
    assert await store.owned("alice") == made[::-1]


async def test_names_need_not_be_unique(store: SandboxStore) -> None:
    made = [await kept(store, new(name=name)) for name in ("twin", "other", "twin")]
    assert await store.named("alice", "twin") == [made[2], made[0]]


async def test_deleted_sandboxes_are_hidden_unless_their_state_is_requested(store: SandboxStore) -> None:
    deleted = await store.save((await kept(store, new())).moved(State.DELETED, now_ms=8))
    assert await store.owned("alice") == []
    assert await store.named("alice", deleted.name) == []
    assert await store.in_state(State.DELETED) == [deleted]
    assert await store.find(deleted.id) == deleted


async def test_sandboxes_in_a_state_are_found_across_all_owners(store: SandboxStore) -> None:
    mine, theirs = await kept(store, new("alice")), await kept(store, new("bob"))
    running = await store.save(mine.moved(State.RUNNING, now_ms=8))
    assert await store.in_state(State.RUNNING) == [running]
    assert await store.in_state(State.CREATING) == [theirs]


async def test_more_sandboxes_than_one_batch_are_all_found(
    store: SandboxStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    for count in range(1, 6):
        await kept(store, new())
        found = await store.owned("alice")
        assert len({sandbox.id for sandbox in found}) == len(found) == count


async def test_the_second_of_two_changes_to_one_version_fails(store: SandboxStore) -> None:
    seen = await kept(store, new())
    saved = await store.save(replace(seen, name="first"))
    assert saved.version == 2
    with pytest.raises(Conflict, match=seen.id):
        await store.save(replace(seen, name="second"))
    assert await store.find(seen.id) == saved


async def test_a_removed_sandbox_cannot_be_saved_again(store: SandboxStore) -> None:
    sandbox = await kept(store, new())
    await store.remove(sandbox.id)
    await store.remove(sandbox.id)
    assert await store.find(sandbox.id) is None
    with pytest.raises(Conflict):
        await store.save(sandbox)


@pytest.mark.parametrize("ref", ["", "\0", "\ud800", "a" * 100_000, "'; DROP TABLE sandboxes; --", "%"])
async def test_a_malformed_reference_finds_nothing(store: SandboxStore, ref: str) -> None:
    await kept(store, new())
    assert await store.get("alice", ref) is None
    assert await store.named("alice", ref) == []


async def test_concurrent_changes_are_never_lost(store: SandboxStore) -> None:
    sandbox = await kept(store, new())

    async def relabel(label: str) -> None:
        while True:
            seen = await store.find(sandbox.id)
            assert seen is not None
            try:
                await store.save(replace(seen, labels={**seen.labels, label: "x"}))
            except Conflict:
                continue
            return

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(relabel, f"l{number}")
    found = await store.find(sandbox.id)
    assert found is not None and set(found.labels) == {"a", *(f"l{number}" for number in range(20))}


async def test_each_of_many_concurrent_changes_succeeds(store: SandboxStore) -> None:
    sandbox = await kept(store, new())

    async def count(number: int) -> None:
        await store.change(sandbox.id, lambda found: replace(found, labels={**found.labels, f"l{number}": "x"}))

    async with anyio.create_task_group() as tasks:
        for number in range(RIVALS):
            tasks.start_soon(count, number)
    assert len((await store.find(sandbox.id) or sandbox).labels) == len(sandbox.labels) + RIVALS


async def test_a_closed_store_makes_every_call_unavailable(store: SandboxStore, database: SqliteDatabase) -> None:
    await store.ping()
    await database.aclose()
    with pytest.raises(Unavailable, match="not open"):
        await store.ping()
    with pytest.raises(Unavailable):
        await store.owned("alice")
    with pytest.raises(Unavailable):
        await store.insert(new())


async def test_a_full_store_is_reported_as_an_exhausted_host(tmp_path: Path) -> None:
    async with SqliteDatabase(tmp_path / "small.db", max_bytes=64 * 1024) as database:
        store = SandboxStore(await database.collection(SANDBOXES), host="here")
        first = await kept(store, new())
        with pytest.raises(HostExhausted, match="Delete what is not needed on the host's disk"):
            for _ in range(10_000):
                await store.insert(new())
        assert await store.find(first.id) == first


async def test_hosts_that_share_a_store_do_not_see_each_others_sandboxes(database: SqliteDatabase) -> None:
    here, there = [SandboxStore(await database.collection(SANDBOXES), host=host) for host in ("here", "there")]
    sandbox = await kept(here, new())
    assert await there.find(sandbox.id) is None
    assert await there.owned("alice") == []
    assert await there.named("alice", sandbox.name) == []
    assert await there.in_state(State.CREATING) == []
    assert await here.owned("alice") == [sandbox]
