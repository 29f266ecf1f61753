"""Whole directories over REST."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest

from tests.mcp_server.rest.conftest import BASE, Rest
from tests.vmm.agent.trees import grow, look, socket_at

pytestmark = pytest.mark.anyio

ARCHIVE = f"{BASE}/files/archive"


async def test_a_directory_comes_down_as_tar_unpacks_it_and_goes_up_as_tar_packs_it(
    http: httpx.AsyncClient, place: Path
) -> None:
    tree, there = place / "tree", place / "there"
    tree.mkdir()
    there.mkdir()
    grow(tree)
    down = await http.get(ARCHIVE, params={"path": str(tree)})
    assert (down.status_code, down.headers["content-type"]) == (200, "application/x-tar")
    assert down.headers["content-disposition"] == 'attachment; filename="tree.tar"'
    subprocess.run(["tar", "xp", "-C", there], input=down.content, check=True, stderr=subprocess.DEVNULL)
    assert look(there) == look(tree)

    made = subprocess.run(["tar", "c", "-S", "--format=pax", "-C", tree, "."], check=True, stdout=subprocess.PIPE)
    up = await http.put(ARCHIVE, params={"path": f"{place}/new/up"}, content=made.stdout)
    facts = up.json()
    assert (up.status_code, facts["success"], facts["path"], facts["skipped"]) == (200, True, f"{place}/new/up", [])
    assert look(place / "new" / "up") == look(tree)


async def test_what_is_left_out_is_named(http: httpx.AsyncClient, place: Path) -> None:
    (place / "tree").mkdir()
    socket_at(place / "tree" / "socket")
    down = await http.get(ARCHIVE, params={"path": f"{place}/tree"})
    up = (await http.put(ARCHIVE, params={"path": f"{place}/up"}, content=down.content)).json()
    assert (up["files"], up["skippedCount"]) == (0, 1)
    assert up["skipped"] == [{"path": "socket", "reason": "a socket"}]


async def test_refusals_have_their_status_before_anything_is_sent(rest: Rest, place: Path) -> None:
    (place / "file").write_text("file")
    async with rest.http() as http, rest.http("reader") as reader, rest.http("bob") as bob:
        for path, status in ((f"{place}/none", 404), (f"{place}/file", 409), ("", 400)):
            answer = await http.get(ARCHIVE, params={"path": path})
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
            assert (await http.head(ARCHIVE, params={"path": path})).status_code == status
        assert (await http.head(ARCHIVE, params={"path": str(place)})).headers["content-type"] == "application/x-tar"
        broken = await http.put(ARCHIVE, params={"path": f"{place}/up"}, content=b"no archive" * 100)
        assert broken.status_code == 400
        assert "checksum" in broken.json()["error"]
        assert (await reader.put(ARCHIVE, params={"path": f"{place}/x"}, content=bytes(1024))).status_code == 403
        assert (await reader.get(ARCHIVE, params={"path": str(place)})).status_code == 200
        assert (await bob.get(ARCHIVE, params={"path": str(place)})).status_code == 404
        assert (await bob.put(ARCHIVE, params={"path": str(place)}, content=bytes(1024))).status_code == 404
    assert not (place / "x").exists()


async def ended(rest: Rest, action: str) -> None:
    with anyio.fail_after(10):
        while not any(state.get("action") == action for state in rest.states):
            await anyio.sleep(0.02)


async def test_a_client_that_goes_away_ends_either_way_and_leaves_no_half_file(rest: Rest, place: Path) -> None:
    with (place / "large").open("wb") as file:
        file.write(b"x" * 60_000_000)
    async with rest.http() as http, http.stream("GET", ARCHIVE, params={"path": str(place)}) as answer:
        await anext(answer.aiter_raw())
    await ended(rest, "file.pack")
    made = subprocess.run(["tar", "c", "-C", place, "large"], check=True, stdout=subprocess.PIPE).stdout

    async def endless() -> AsyncIterator[bytes]:
        for start in range(0, 2_000_000, 100_000):
            yield made[start : start + 100_000]
        with anyio.fail_after(10):
            while not list((place / "up").iterdir()):
                await anyio.sleep(0.02)
        raise OSError("cable cut")

    (place / "up").mkdir()
    async with rest.http() as http:
        with pytest.raises(OSError, match="cable cut"):
            await http.put(ARCHIVE, params={"path": f"{place}/up"}, content=endless())
    await ended(rest, "file.unpack")
    with anyio.fail_after(10):
        while list((place / "up").iterdir()):
            await anyio.sleep(0.02)
