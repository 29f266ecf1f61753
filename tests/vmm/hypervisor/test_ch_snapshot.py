from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vmm.hypervisor.ch_api import ApiError
from vmm.hypervisor.ch_snapshot import CONFIG, RANGES, STATE, CopyOnWrite, prepare, take

_GIB = 1024**3
# As the program writes them: in any order, and without offsets for memory without a file.
_PARTS = [{"gpa": 4 * _GIB, "size": _GIB, "file_offset": 0}, {"gpa": 0, "size": 3 * _GIB, "file_offset": 0}]
_RANGES = [{"gpa": 0, "length": 3 * _GIB}, {"gpa": 4 * _GIB, "length": _GIB}]
_CONFIG: dict[str, Any] = {
    "memory": {"size": 0, "zones": [{"id": "ram", "size": 4 * _GIB, "file": "old", "shared": True, "thp": True}]},
    "disks": [{"path": "old", "readonly": True}],
    "payload": {"kernel": "old"},
    "serial": {"file": "old"},
    "vsock": {"socket": "old", "cid": 3},
}
_OWN: dict[str, Any] = {
    "memory": {"size": 0, "zones": [{"id": "ram", "size": 4 * _GIB, "shared": False}]},
    "disks": [{"path": "disk"}],
    "payload": {"kernel": "parts/vmlinuz"},
    "serial": {"file": "console.log"},
    "vsock": {"socket": "vsock.sock"},
    "landlock_enable": True,
    "landlock_rules": [{"path": ".", "access": "rw"}],
}


def written(place: Path, *, ranges: list[dict[str, int]]) -> Path:
    """Write what the program would write into a directory."""
    place.mkdir()
    memory = {"memory_ranges": {"data": ranges}, "guest_ram_mappings": _PARTS, "boot_ram": 1}
    state = {"snapshots": {"memory-manager": {"snapshot_data": {"state": json.dumps(memory)}}, "cpu": {"x": 1}}}
    (place / STATE).write_text(json.dumps(state))
    (place / CONFIG).write_text(json.dumps(_CONFIG))
    if ranges:
        (place / RANGES).write_bytes(b"memory")
    return place


def memory_of(snapshot: Path) -> dict[str, Any]:
    state = json.loads((snapshot / STATE).read_text())
    assert state["snapshots"]["cpu"] == {"x": 1}
    return json.loads(state["snapshots"]["memory-manager"]["snapshot_data"]["state"])


def test_a_kept_snapshot_lists_no_ranges_and_has_offsets(tmp_path: Path) -> None:
    source = written(tmp_path / "saved", ranges=_RANGES)
    take(source, tmp_path / "state", tmp_path / "ranges")
    memory = memory_of(tmp_path / "state")
    assert memory["memory_ranges"]["data"] == []
    assert {part["gpa"]: part["file_offset"] for part in memory["guest_ram_mappings"]} == {0: 0, 4 * _GIB: 3 * _GIB}
    assert (tmp_path / "ranges").read_bytes() == b"memory"
    assert not source.exists()


def test_memory_that_stayed_in_its_file_is_not_moved(tmp_path: Path) -> None:
    take(written(tmp_path / "saved", ranges=[]), tmp_path / "state", tmp_path / "ranges")
    assert not (tmp_path / "ranges").exists()
    assert json.loads((tmp_path / "state" / CONFIG).read_text()) == _CONFIG


@pytest.mark.parametrize("ranges", [_RANGES[::-1], _RANGES[:1], [{"gpa": 0, "length": 4096}]])
def test_ranges_that_are_not_a_plain_memory_image_are_refused(tmp_path: Path, ranges: list[dict[str, int]]) -> None:
    with pytest.raises(ApiError, match="does not support"):
        take(written(tmp_path / "saved", ranges=ranges), tmp_path / "state", tmp_path / "ranges")


def test_a_prepared_snapshot_names_the_machines_own_files(tmp_path: Path) -> None:
    take(written(tmp_path / "saved", ranges=[]), tmp_path / "state", tmp_path / "ranges")
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "stale").touch()
    prepare(tmp_path / "state", tmp_path / "restored", _OWN, None)
    config = json.loads((tmp_path / "restored" / CONFIG).read_text())
    assert "old" not in json.dumps(config)
    zone = config["memory"]["zones"][0]
    assert zone == {"id": "ram", "size": 4 * _GIB, "shared": False, "thp": True}
    assert config["landlock_rules"] == [{"path": ".", "access": "rw"}]
    assert memory_of(tmp_path / "restored")["memory_ranges"]["data"] == []
    assert sorted(path.name for path in (tmp_path / "restored").iterdir()) == [CONFIG, STATE]


def test_memory_that_the_program_reads_is_linked_and_listed(tmp_path: Path) -> None:
    take(written(tmp_path / "saved", ranges=_RANGES), tmp_path / "state", tmp_path / "ram")
    prepare(tmp_path / "state", tmp_path / "restored", _OWN, tmp_path / "ram")
    assert memory_of(tmp_path / "restored")["memory_ranges"]["data"] == _RANGES
    assert (tmp_path / "restored" / RANGES).samefile(tmp_path / "ram")
    assert memory_of(tmp_path / "state")["memory_ranges"]["data"] == []


_NET: dict[str, Any] = {"id": "net", "mac": "02:ca:5e:00:00:01"}


def with_net(place: Path) -> Path:
    written(place, ranges=[])
    config = _CONFIG | {"net": [_NET | {"fds": [37], "num_queues": 2}]}
    (place / CONFIG).write_text(json.dumps(config))
    return place


def test_a_prepared_snapshot_expects_one_descriptor_for_its_network_device(tmp_path: Path) -> None:
    take(with_net(tmp_path / "saved"), tmp_path / "state", tmp_path / "ranges")
    prepare(tmp_path / "state", tmp_path / "restored", _OWN | {"net": [_NET]}, None)
    (net,) = json.loads((tmp_path / "restored" / CONFIG).read_text())["net"]
    assert net == _NET | {"fds": [-1], "num_queues": 2}


@pytest.mark.parametrize("saved", [False, True])
def test_a_snapshot_with_another_number_of_network_devices_is_refused(tmp_path: Path, saved: bool) -> None:
    source = with_net(tmp_path / "saved") if saved else written(tmp_path / "saved", ranges=[])
    with pytest.raises(ApiError, match="does not support"):
        prepare(source, tmp_path / "restored", _OWN if saved else _OWN | {"net": [_NET]}, None)


@pytest.mark.parametrize("damage", ["", "{}", "[]", "no json"])
def test_a_damaged_snapshot_is_refused(tmp_path: Path, damage: str) -> None:
    source = written(tmp_path / "saved", ranges=[])
    (source / STATE).write_text(damage)
    with pytest.raises(ApiError):
        prepare(source, tmp_path / "restored", _OWN, tmp_path / "ram")
    with pytest.raises(ApiError):
        take(source, tmp_path / "state", tmp_path / "ranges")


@pytest.mark.parametrize(
    ("version", "way"),
    [("51.0", CopyOnWrite.ZONE), ("53.0", CopyOnWrite.ZONE), ("54.0", CopyOnWrite.MODE), ("60.1", CopyOnWrite.MODE)],
)
def test_memory_is_shared_in_the_way_that_the_version_supports(version: str, way: CopyOnWrite) -> None:
    assert CopyOnWrite.of(version) is way
