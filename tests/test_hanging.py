"""A test that hangs fails, says where, and takes no other with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-p", "tests.hanging", "-p", "no:cacheprovider"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
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

ENDED = """
import threading
from pathlib import Path

import anyio
import pytest


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def thing():
    yield
    Path("removed").touch()


@pytest.mark.anyio
async def test_waits(thing):
    # Once this waits: as Ctrl-C does, an interrupt in the middle of a task's code ends the task, and with it its loop.
    threading.Timer(0.5, Path("begun").touch).start()
    await anyio.sleep_forever()
"""


def test_a_test_that_hangs_is_told_and_its_neighbour_passes(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(SUITE)
    done = subprocess.run(
        [*PYTEST, "--rootdir", tmp_path, "--timeout=5", "-W", "error", tmp_path],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "It hung: no end within 4 s" in done.stdout
    assert "await anyio.sleep_forever()" in done.stdout


@pytest.mark.anyio
async def test_a_run_that_is_told_to_end_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(ENDED)
    with subprocess.Popen(
        [*PYTEST, "--rootdir", tmp_path, tmp_path], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    ) as run:
        try:
            with anyio.fail_after(PATIENCE_S):
                while not (tmp_path / "begun").exists():
                    assert run.poll() is None
                    await anyio.sleep(0.05)
            run.terminate()
            run.wait(PATIENCE_S)
        finally:
            run.kill()
    assert (tmp_path / "removed").exists()
