from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm.guest.link import GuestLink

pytestmark = pytest.mark.anyio


def plant(place: str) -> None:
    for name, content in {
        "a/one.py": b"first\nneedle here\n",
        "a/two.txt": b"nothing",
        "b/three.py": b"x" * 5_000_000 + b"\nneedle " + b"y" * 1000 + b"\n",
        "b/four.bin": b"\0needle",
        "five.py": b"no",
    }.items():
        path = Path(place, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    Path(place, "loop").symlink_to(".")
    os.mkfifo(f"{place}/b/pipe.py")


async def test_names_match_as_globs_in_path_order(link: GuestLink, place: str) -> None:
    plant(place)
    result = await link.search(place, name="*.py")
    names = [match.path.removeprefix(place) for match in result.matches]
    assert names == ["/a/one.py", "/b/pipe.py", "/b/three.py", "/five.py"]
    assert not result.truncated


async def test_content_matches_with_its_line(link: GuestLink, place: str) -> None:
    plant(place)
    one, three = (await link.search(place, content="needle")).matches
    assert (one.path, one.line_number, one.line) == (f"{place}/a/one.py", 2, "needle here")
    assert (three.path, three.line_number, len(three.line)) == (f"{place}/b/three.py", 2, 500)
    assert (await link.search(place, name="one*", content="needle")).matches == (one,)
    assert (await link.search(place, name="five*", content="needle")).matches == ()


@pytest.mark.parametrize("before", [2**20 - 3, 2**20, 2 * 2**20 - 6])
async def test_content_is_found_across_read_boundaries(link: GuestLink, place: str, before: int) -> None:
    Path(place, "file").write_bytes(b"\n" * before + b"needle\n")
    (match,) = (await link.search(place, content="needle")).matches
    assert (match.line_number, match.line) == (before + 1, "needle")


async def test_reaching_the_limit_is_reported(link: GuestLink, place: str) -> None:
    plant(place)
    result = await link.search(place, name="*", limit=2)
    assert (len(result.matches), result.truncated) == (2, True)


async def test_the_time_limit_is_kept(link: GuestLink) -> None:
    result = await link.search("/", content="a text that is not to be found", timeout_ms=0)
    assert (result.matches, result.truncated) == ((), True)


async def test_virtual_file_systems_are_left_out_of_a_search_from_the_root(link: GuestLink) -> None:
    result = await link.search("/", name="passwd", limit=1000, timeout_ms=30_000)
    assert not [match for match in result.matches if match.path.startswith(("/proc/", "/sys/"))]
    assert (await link.search("/proc/self", name="status", timeout_ms=30_000)).matches
