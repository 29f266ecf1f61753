from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S
from vmm.images import cpio

_ENTRIES = (
    cpio.directory("etc"),
    cpio.file("etc/odd", b"12345", 0o640),
    cpio.file("etc/empty", b""),
    cpio.link("etc/link", "odd"),
)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_cpio_program_unpacks_an_archive(tmp_path: Path) -> None:
    subprocess.run(
        ["cpio", "-i", "--quiet"], input=cpio.archive(_ENTRIES), cwd=tmp_path, check=True, timeout=PATIENCE_S
    )
    assert (tmp_path / "etc/odd").read_bytes() == b"12345"
    assert (tmp_path / "etc/odd").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "etc/empty").read_bytes() == b""
    assert (tmp_path / "etc/link").readlink() == Path("odd")


def test_archives_can_be_concatenated() -> None:
    assert len(cpio.archive(_ENTRIES)) % 4 == 0


def test_a_device_keeps_its_numbers() -> None:
    header = cpio.archive([cpio.character_device("dev/console", 5, 1)])[:110]
    assert header[6 + 8 : 6 + 16] == b"%08X" % (0o020000 | 0o600)
    assert header[6 + 9 * 8 : 6 + 11 * 8] == b"0000000500000001"
