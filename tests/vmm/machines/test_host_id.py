from __future__ import annotations

from pathlib import Path

import pytest

from vmm.errors import Unavailable
from vmm.machines.host_id import host_id


def test_a_data_directory_keeps_its_host_id(tmp_path: Path) -> None:
    found = host_id(tmp_path)
    assert len(found) == 24
    assert host_id(tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == ["host"]


def test_two_directories_are_two_hosts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert host_id(tmp_path) != host_id(tmp_path / "other")


@pytest.mark.parametrize("held", ["", "nonsense", "A" * 24])
def test_a_damaged_host_id_is_not_replaced(tmp_path: Path, held: str) -> None:
    (tmp_path / "host").write_text(held)
    with pytest.raises(Unavailable, match="must hold a host id"):
        host_id(tmp_path)
    assert (tmp_path / "host").read_text() == held
