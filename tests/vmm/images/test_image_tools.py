from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm.images.commands import run
from vmm.images.tools import find_tools

pytestmark = pytest.mark.anyio


async def test_root_owns_files_made_as_root_whoever_builds(tmp_path: Path) -> None:
    tools = await find_tools()
    script = f"touch {tmp_path}/a && chown 42:42 {tmp_path}/a && stat -c %u:%g {tmp_path} {tmp_path}/a"
    assert (await run([*tools.root, "sh", "-c", script], deadline_s=20)).split() == ["0:0", "42:42"]
    await run([*tools.root, "rm", f"{tmp_path}/a"], deadline_s=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts in the open")
async def test_mounts_of_a_build_end_with_it(tmp_path: Path) -> None:
    tools = await find_tools()
    if not tools.mounting:
        pytest.skip("this root may not mount")
    script = f"mount -t tmpfs none {tmp_path} && grep -c {tmp_path} /proc/self/mounts"
    assert await run([*tools.mounting, "sh", "-c", script], deadline_s=20) == "1\n"
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
