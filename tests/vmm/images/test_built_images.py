"""The built images; building them takes a minute if this machine has none."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S
from vmm.images.catalogue import Catalogue, ImageSet
from vmm.images.tools import find_tool, is_static

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(3600)]

_MIB = 1024 * 1024


def _debugfs(image: Path, command: str) -> str:
    tool = find_tool("debugfs")
    assert tool is not None
    done = subprocess.run([tool, "-R", command, image], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    return done.stdout


async def test_every_digest_matches_and_a_second_build_is_a_no_op(catalogue: Catalogue, image_set: ImageSet) -> None:
    await catalogue.verify("minimal")
    assert await catalogue.build("minimal") == image_set


async def test_the_kernel_is_built_in_both_formats(image_set: ImageSet) -> None:
    assert image_set.kernel_elf.read_bytes()[:4] == b"\x7fELF"
    assert image_set.kernel_bz.read_bytes()[0x202:0x206] == b"HdrS"


async def test_the_files_that_each_guest_loads_are_small(image_set: ImageSet) -> None:
    assert image_set.sizes["initramfs"] < 3 * _MIB
    assert image_set.sizes["toolbox"] < 60 * _MIB
    assert image_set.toolbox.read_bytes()[1024:1028] == bytes.fromhex("e2e1f5e0")


@pytest.mark.parametrize("name", ["minimal", "code"])
async def test_a_base_image_passes_fsck_and_root_owns_its_files(catalogue: Catalogue, name: str) -> None:
    base = (await catalogue.ensure(name)).base
    check = find_tool("e2fsck")
    assert check is not None
    subprocess.run([check, "-f", "-n", base], capture_output=True, check=True, timeout=PATIENCE_S)
    stats = _debugfs(base, "stats")
    assert "Filesystem volume name:   cm-base" in stats
    assert "has_journal" not in stats
    listing = _debugfs(base, "ls -l /")
    assert "lost+found" not in listing
    owners = {tuple(line.split()[3:5]) for line in listing.splitlines() if line.strip()}
    assert owners == {("0", "0")}
    assert re.search(r"41777 .* tmp$", listing, re.MULTILINE)
    assert re.search(r"Group:\s+8\b", _debugfs(base, "stat /var/mail"))
    assert "Mode:  04755" in _debugfs(base, "stat /usr/bin/su")
    assert "localhost" in _debugfs(base, "cat /etc/hosts")


async def test_the_default_image_has_what_agents_use(code_image: ImageSet) -> None:
    for path in ("/usr/bin/git", "/usr/bin/pip3", "/usr/bin/curl", "/usr/bin/zip", "/usr/bin/unzip", "/usr/bin/ps"):
        assert "Type: regular" in _debugfs(code_image.base, f"stat {path}"), path
    for command in ("npm", "npx", "tsx"):
        target = re.search(r'dest: "(.*)"', _debugfs(code_image.base, f"stat /usr/local/bin/{command}"))
        assert target is not None
        assert "Mode:  0755" in _debugfs(code_image.base, f"stat /usr/local/bin/{target[1]}")
    python = _debugfs(code_image.base, "ls /usr/lib/python3.11") or _debugfs(code_image.base, "ls /usr/lib/python3.13")
    assert "EXTERNALLY-MANAGED" not in python
    assert "99mmdebstrap" not in _debugfs(code_image.base, "ls /etc/apt/apt.conf.d")


async def test_the_hosts_busybox_is_static() -> None:
    busybox, shell = find_tool("busybox"), find_tool("sh")
    assert busybox is not None
    assert shell is not None
    assert is_static(busybox)
    assert not is_static(shell)
