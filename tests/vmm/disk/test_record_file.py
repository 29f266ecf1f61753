"""Files that are read back: of an earlier or a later release, damaged, or gone; each is told by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.ids import new_id
from tests.vmm import still
from vmm.errors import Damaged
from vmm.machines.checkpoint import Checkpoint, hardware_in
from vmm.machines.machine import MachineRecord
from vmm.machines.snapshots import Snapshot, Snapshots

Reader = Callable[[Path], object]


def machine(directory: Path) -> None:
    still.furnished(directory, fingerprint="qemu 7.2")


def moment(directory: Path) -> None:
    directory.mkdir()
    hardware = hardware_in(directory, cpu=1, mem=256, tsc_khz=5)
    Checkpoint(directory=directory, hardware=hardware, secret=b"s", nonce="n", fingerprint="qemu 7.2").write()


KINDS: dict[str, tuple[Callable[[Path], None], Reader]] = {
    "machine.json": (machine, MachineRecord.read),
    "saved.json": (moment, Checkpoint.load),
}
NEEDED = [
    *(("machine.json", name) for name in ("pid", "port", "memory", "hardware", "nonce", "secret", "fingerprint")),
    *(("machine.json", name) for name in ("started", "machine_id", "hostname")),
    *(("saved.json", name) for name in ("hardware", "secret", "nonce", "fingerprint")),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / new_id()


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_file_is_none(directory: Path, name: str) -> None:
    _, read = KINDS[name]
    assert read(directory) is None
    directory.mkdir()
    assert read(directory) is None


@pytest.mark.parametrize(("name", "missing"), NEEDED)
def test_a_missing_field_is_named_with_its_file(directory: Path, name: str, missing: str) -> None:
    write, read = KINDS[name]
    write(directory)
    still.change(directory / name, **{missing: None})
    with pytest.raises(Damaged, match=f"{directory.name}/{name} is damaged: it has no {missing}") as told:
        read(directory)
    assert told.value.hint
    assert not told.value.retryable


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b"null", b"7", b"[" * 100_000])
def test_content_that_is_not_a_record_is_damaged(directory: Path, name: str, content: bytes) -> None:
    write, read = KINDS[name]
    write(directory)
    (directory / name).write_bytes(content)
    with pytest.raises(Damaged, match=f"{name} is damaged: it "):
        read(directory)


@pytest.mark.parametrize("name", KINDS)
def test_an_unreadable_file_is_damaged(directory: Path, name: str) -> None:
    write, read = KINDS[name]
    write(directory)
    (directory / name).unlink()
    (directory / name).mkdir()
    with pytest.raises(Damaged, match=r"it cannot be read .Is a directory"):
        read(directory)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("machine.json", "pid", "7"),
        ("machine.json", "pid", True),
        ("machine.json", "memory", "borrowed"),
        ("machine.json", "hardware", {"cpu": 1, "mem": "much", "tsc_khz": 0}),
        ("saved.json", "hardware", 5),
        ("saved.json", "secret", "not hex"),
        ("saved.json", "format", "two"),
    ],
)
def test_a_value_of_the_wrong_type_is_damaged(directory: Path, name: str, field: str, value: object) -> None:
    write, read = KINDS[name]
    write(directory)
    still.change(directory / name, **{field: value})
    with pytest.raises(Damaged, match=f"{name} is damaged: its "):
        read(directory)


@pytest.mark.parametrize("name", KINDS)
def test_files_of_earlier_and_later_releases_are_distinguished(directory: Path, name: str) -> None:
    write, read = KINDS[name]
    write(directory)
    today = read(directory)
    assert json.loads((directory / name).read_text())["format"] == 1
    still.change(directory / name, format=None)
    assert read(directory) == today
    still.change(directory / name, format=1, mood="good")
    assert read(directory) == today
    still.change(directory / name, format=2)
    with pytest.raises(Damaged, match="its format must be at most 1, got 2: use the newer release"):
        read(directory)


@pytest.mark.anyio
async def test_a_snapshot_with_missing_fields_still_belongs_to_its_owner(tmp_path: Path) -> None:
    request = Snapshot(
        id=new_id(),
        owner="alice",
        sandbox="b" * 24,
        sandbox_name="box",
        name="gold",
        parent="",
        image="minimal",
        cpu=1,
        mem=256,
        disk=1,
        driver="qemu 7.2",
        labels={"a": "b"},
    )
    snapshots = Snapshots(tmp_path)
    draft = await snapshots.draft(request.id)
    (draft / "ram").write_bytes(b"ram")
    snapshot = await snapshots.publish(request, draft)
    directory = tmp_path / request.id
    manifest = directory / "snapshot.json"
    sound = manifest.read_text()
    assert Snapshot.read(directory) == snapshot
    assert list(snapshot.files) == ["ram"]
    still.change(manifest, mood="good")
    assert Snapshot.read(directory) == snapshot
    for field, value in (("image", None), ("mem", "much"), ("labels", {"a": 1}), ("files", {"ram": {"size": 1}})):
        manifest.write_text(sound)
        still.change(manifest, **{field: value})
        found = Snapshot.read(directory)
        assert found is not None
        assert (found.id, found.owner, found.name) == (directory.name, "alice", "gold")
        assert "snapshot.json is damaged" in found.damage
        with pytest.raises(Damaged, match=r"is damaged.*Use another one, and delete this one"):
            found.check()
    still.change(manifest, owner=None)
    with pytest.raises(Damaged, match="it has no owner"):
        Snapshot.read(directory)
