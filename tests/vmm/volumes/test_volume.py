"""The record of a volume, who may attach it, and where; without machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmm.errors import Conflict, Damaged, InvalidInput
from vmm.sandboxes.volume_mount import MOST_VOLUMES, VolumeMount, check_apart, check_mounts, checked_path
from vmm.volumes.volume import Attachment, Volume, VolumeState, check_name, check_size

ID, ONE, TWO = "0" * 24, "1" * 24, "2" * 24
VOLUME = Volume(id=ID, owner="a", name="data", size=64, state=VolumeState.READY)
WRITES, READS = Attachment(path="/data", read_only=False), Attachment(path="/data", read_only=True)


def test_one_sandbox_writes_or_several_read() -> None:
    written, read = (VOLUME.with_sandbox(ONE, how, {}) for how in (WRITES, READS))
    assert (written.writer, read.writer) == (ONE, "")
    for volume, how in ((written, WRITES), (written, READS), (read, WRITES)):
        with pytest.raises(Conflict, match=rf"to sandbox box \({ONE}\), so it cannot be attached"):
            volume.with_sandbox(TWO, how, {ONE: "box"})
    both = read.with_sandbox(TWO, READS, {})
    assert set(both.attached) == {ONE, TWO}
    assert both.without_sandbox(ONE).without_sandbox(TWO) == VOLUME
    assert both.attachment(TWO) == READS
    assert both.attachment(ID) is None


def test_a_volume_is_not_attached_twice_to_one_sandbox() -> None:
    with pytest.raises(Conflict, match="already attached to this sandbox, read-only at /data"):
        VOLUME.with_sandbox(ONE, READS, {}).with_sandbox(ONE, READS, {})


def test_a_volume_that_a_sandbox_has_is_not_deleted() -> None:
    assert VOLUME.deleting({}).state is VolumeState.DELETING
    with pytest.raises(Conflict, match=rf"attached to sandbox box \({ONE}\)"):
        VOLUME.with_sandbox(ONE, READS, {}).deleting({ONE: "box"})


@pytest.mark.parametrize("state", [VolumeState.CREATING, VolumeState.DELETING])
def test_a_volume_that_is_being_made_or_removed_is_not_attached(state: VolumeState) -> None:
    with pytest.raises(Conflict, match=r"is being (created|deleted)"):
        replace(VOLUME, state=state).with_sandbox(ONE, READS, {})


def test_a_record_is_read_back_and_a_damaged_one_is_named() -> None:
    whole = VOLUME.with_sandbox(ONE, READS, {})
    assert Volume.of(whole.document() | {"later": 1}) == whole
    for wrong in ({"size": "64"}, {"state": "strange"}, {"_id": "../x"}):
        with pytest.raises(Damaged, match="record of volume"):
            Volume.of(whole.document() | wrong)
    without = whole.document()
    del without["owner"]
    with pytest.raises(Damaged, match="owner"):
        Volume.of(without)


@pytest.mark.parametrize("path", ["", "data", "/", "//", "/.", "/data/..", "/../data", "/proc/x", "/sys", "/dev/shm/x"])
def test_a_path_that_is_relative_or_that_the_sandbox_needs_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="path must be"):
        checked_path(path)


def test_a_path_is_kept_in_normal_form() -> None:
    assert [checked_path(path) for path in ("/data/", "//a//b/.", "/var/lib/x")] == ["/data", "/a/b", "/var/lib/x"]
    with pytest.raises(InvalidInput, match="at most 255 bytes, got 401"):
        checked_path("/" + "ä" * 200)


def test_paths_of_one_sandbox_are_apart() -> None:
    for path in ("/data", "/data/x"):
        with pytest.raises(Conflict, match="apart from /data of volume one"):
            check_apart({"one": "/data"}, path)
    check_apart({"one": "/data"}, "/data2")
    with pytest.raises(Conflict, match="got 'one' twice"):
        check_mounts([VolumeMount(volume="one", path=path) for path in ("/a", "/b")])
    with pytest.raises(InvalidInput, match=f"at most {MOST_VOLUMES} in one sandbox"):
        check_mounts([VolumeMount(volume=str(number), path=f"/{number}") for number in range(MOST_VOLUMES + 1)])


def test_names_and_sizes_are_bounded() -> None:
    for name in ("", "Data", "-a", "a-", "a.b", "a/b", "ä", "a" * 64):
        with pytest.raises(InvalidInput, match="name must be a DNS label"):
            check_name(name)
    for size in (0, 63, 16385, -1):
        with pytest.raises(InvalidInput, match="size must be 64 to 16384 MiB"):
            check_size(size)
    check_name("a" * 63)
    check_size(64)
