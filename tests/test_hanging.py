"""A test that hangs fails, says where, and takes no other with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent
SUITE = """
import asyncio

import anyio
import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def spin():
    while True:
        await asyncio.sleep(0)


async def test_hangs():
    # As a driver has it, whose tasks are not the test's: what breaks into one of them never reaches the test.
    spinning = asyncio.create_task(spin())
    try:
        await anyio.sleep_forever()
    finally:
        spinning.cancel()


async def test_neighbour():
    await anyio.sleep(0)
"""


def test_a_test_that_hangs_is_told_and_its_neighbour_passes(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "tests.hanging", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    done = subprocess.run(
        [*command, "--timeout=5", "-W", "error", tmp_path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "It hung: no end within 4 s" in done.stdout
    assert "await anyio.sleep_forever()" in done.stdout
