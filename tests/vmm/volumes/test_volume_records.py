"""Records and files of volumes, and what a server finds of them when it starts; without machines."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from storage.ids import new_id
from storage.sqlite import SqliteDatabase
from tests.vmm import still
from vmm.errors import Conflict, HostExhausted, NotFound
from vmm.hypervisor.detect import Choice
from vmm.sandboxes.sandbox import State
from vmm.volumes.store import VOLUMES, VolumeStore
from vmm.volumes.volume import Volume, VolumeState

pytestmark = pytest.mark.anyio

ALICE, BOB = "a" * 24, "b" * 24


@asynccontextmanager
async def records(data: Path) -> AsyncGenerator[VolumeStore]:
    """The records of a data directory without a fleet."""
    data.mkdir(exist_ok=True)
    async with SqliteDatabase(data / "volumes.db") as database:
        yield VolumeStore(await database.collection(VOLUMES), host=still.HOST)


def volume(name: str, state: VolumeState, *, owner: str = ALICE, made_for: str = "") -> Volume:
    return Volume(id=new_id(), owner=owner, name=name, size=64, state=state, made_for=made_for)


async def test_a_name_is_an_owners_own(tmp_path: Path) -> None:
    async with records(tmp_path) as store:
        hers, his = (volume("data", VolumeState.READY, owner=owner) for owner in (ALICE, BOB))
        await store.insert(hers)
        await store.insert(his)
        assert [(await store.get(ALICE, ref)).id for ref in ("data", hers.id)] == [hers.id, hers.id]
        for ref in (his.id, "other", "", "a\0b"):
            with pytest.raises(NotFound):
                await store.get(ALICE, ref)
        with pytest.raises(Conflict, match="already a volume data"):
            await store.insert(volume("data", VolumeState.READY))


async def test_hosts_that_share_a_store_have_volumes_of_their_own(tmp_path: Path) -> None:
    async with SqliteDatabase(tmp_path / "store.db") as database:
        here, there = [VolumeStore(await database.collection(VOLUMES), host=host) for host in ("here", "there")]
        made = volume("data", VolumeState.READY)
        await here.insert(made)
        await there.insert(volume("data", VolumeState.READY))
        assert [one.id for one in await here.all()] == [made.id]
        assert await there.find(made.id) is None
        with pytest.raises(NotFound):
            await there.get(ALICE, made.id)


async def test_a_server_that_starts_finishes_what_an_earlier_one_began(tmp_path: Path, choice: Choice) -> None:
    data = tmp_path / "data"
    box = new_id()
    kept = volume("kept", VolumeState.READY)
    begun, ended = volume("begun", VolumeState.CREATING), volume("ended", VolumeState.DELETING)
    orphan = volume("orphan", VolumeState.READY, made_for=box)
    async with records(data) as store:
        for one in (kept, begun, ended, orphan):
            await store.insert(one)
        await store.change(kept.id, lambda found: Volume.of(found.document() | {"attached": {box: "rw /data"}}))
    (data / "volumes").mkdir()
    unknown = data / "volumes" / f"{new_id()}.img"
    for path in (unknown, *(data / "volumes" / f"{one.id}.img" for one in (kept, ended, orphan))):
        path.touch()
    (data / "volumes" / f".draft-{begun.id}").touch()
    async with still.opened(data, choice.driver) as there:
        (found,) = await there.fleet.volumes.list(ALICE)
        # The sandbox that had it is gone; whose file the other is, nobody knows.
        assert (found.id, found.attached) == (kept.id, {})
        assert {path.name for path in (data / "volumes").iterdir()} == {f"{kept.id}.img", unknown.name}


async def test_a_volume_of_a_sandbox_that_was_killed_is_still_its_own(tmp_path: Path, choice: Choice) -> None:
    data = tmp_path / "data"
    async with still.stored(data) as collection:
        box = await still.kept(collection, State.KILLED)
    async with records(data) as store:
        made = volume("data", VolumeState.READY)
        await store.insert(made)
        await store.change(made.id, lambda found: Volume.of(found.document() | {"attached": {box.id: "rw /data"}}))
    async with still.opened(data, choice.driver) as there:
        calls = there.fleet.volumes
        with pytest.raises(Conflict, match=f"attached to sandbox {box.name}"):
            await calls.delete(ALICE, "data")
        assert (await calls.detach(ALICE, box.id, "data")).attached == {}
        with pytest.raises(Conflict, match="not attached to this sandbox"):
            await calls.detach(ALICE, box.id, "data")
        await calls.delete(ALICE, "data")
        with pytest.raises(NotFound):
            await calls.get(ALICE, "data")


async def test_concurrent_requests_get_one_volume_of_a_name(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        outcomes: list[str] = []

        async def make() -> None:
            try:
                outcomes.append((await there.fleet.volumes.create(ALICE, "data", size=64)).name)
            except Conflict as error:
                outcomes.append(error.message)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(make)
        assert sorted(outcomes) == ["There is already a volume data"] * 3 + ["data"]
        assert len(list((tmp_path / "data" / "volumes").iterdir())) == 1


async def test_a_host_without_room_makes_no_volume(tmp_path: Path, choice: Choice) -> None:
    async with still.opened(tmp_path / "data", choice.driver) as there:
        place = tmp_path / "data" / "volumes"
        with still.mounted(place, "size=512k"), pytest.raises(HostExhausted):
            await there.fleet.volumes.create(ALICE, "data", size=64)
        assert await there.fleet.volumes.list(ALICE) == ()
