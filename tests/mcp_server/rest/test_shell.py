"""File operations over REST whose answers look like a command's outcome."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.mcp_server.rest.conftest import BASE, data_of
from tests.vmm.agent.trees import socket_at

pytestmark = pytest.mark.anyio

FILES = f"{BASE}/files"


class Shell:
    """Alice's file operations."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def __call__(self, method: str, operation: str, /, **query: str) -> str:
        """One that must succeed; what it prints."""
        data = await self.outcome(method, operation, **query)
        assert data["exitCode"] == 0, data
        assert data["stderr"] == ""
        return data["stdout"]

    async def outcome(self, method: str, operation: str, /, **query: str) -> dict[str, Any]:
        query = {{"source": "from"}.get(name, name): value for name, value in query.items()}
        return data_of(await self._http.request(method, f"{FILES}{operation}", params=query))

    async def failing(self, method: str, operation: str, /, **query: str) -> str:
        """One that must fail in the guest; its reason."""
        data = await self.outcome(method, operation, **query)
        assert data["exitCode"] != 0, data
        assert data["stderr"].endswith("\n")
        return data["stderr"]


@pytest.fixture
def shell(http: httpx.AsyncClient) -> Shell:
    return Shell(http)


async def test_files_are_made_copied_moved_and_deleted(shell: Shell, place: Path) -> None:
    assert await shell("POST", "/mkdir", path=f"{place}/a/b") == ""
    assert await shell("POST", "/create", path=f"{place}/a/new/f") == ""
    assert (place / "a/new/f").read_text() == ""
    assert await shell("POST", "/create", path=f"{place}/f", content="hello") == ""
    assert await shell("POST", "/create", path=f"{place}/f") == ""
    assert (place / "f").read_text() == "hello"
    assert await shell("POST", "/copy", source=f"{place}/f", to=f"{place}/c/d/g") == ""
    assert (place / "c/d/g").read_text() == "hello"
    assert await shell("POST", "/copy", source=f"{place}/c", to=f"{place}/a/b") == ""
    assert (place / "a/b/c/d/g").exists()
    assert await shell("POST", "/move", source=f"{place}/c", to=f"{place}/m/c") == ""
    assert (place / "m/c/d/g").exists()
    assert await shell("DELETE", "", path=f"{place}/m") == ""
    assert not (place / "m").exists()
    assert await shell("DELETE", "", path=f"{place}/m") == ""


async def test_a_body_may_carry_the_content_of_a_new_file(http: httpx.AsyncClient, place: Path) -> None:
    params = {"path": f"{place}/f"}
    data_of(await http.post(f"{FILES}/create", params=params, json={"content": "from the body"}))
    assert (place / "f").read_text() == "from the body"
    empty = {"content-type": "application/json"}
    data_of(await http.post(f"{FILES}/create", params={"path": f"{place}/g"}, headers=empty))
    assert (place / "g").exists()


async def test_facts_are_those_that_stat_prints(shell: Shell, place: Path) -> None:
    (place / "empty").touch()
    (place / "file").write_text("x")
    (place / "link").symlink_to("empty")
    (place / "dir").mkdir(mode=0o1750)
    os.mkfifo(place / "pipe")
    socket_at(place / "socket")
    for path in (*place.iterdir(), Path("/dev/null"), Path("/proc/self/mounts")):
        facts = json.loads(await shell("GET", "/stat", path=str(path)))
        program = await anyio.run_process(["stat", "-c", "%F|%f|%s", path])
        assert f"{facts['type']}|{facts['mode']}|{facts['size']}\n" == program.stdout.decode(), path


async def test_facts_come_as_clients_parse_them(shell: Shell, place: Path) -> None:
    (place / "f").write_text("".join(f"line {number}\n" for number in range(30)))
    os.utime(place / "f", (1_700_000_000, 1_700_000_000))
    assert json.loads(await shell("GET", "/stat", path=f"{place}/f")) == {
        "path": f"{place}/f",
        "size": (place / "f").stat().st_size,
        "mode": "81a4",
        "mtime": 1_700_000_000,
        "type": "regular file",
    }
    size, path = (await shell("GET", "/du", path=str(place))).rstrip("\n").split("\t")
    assert (size[-1], path) == ("K", str(place))
    assert await shell("GET", "/head-tail", path=f"{place}/f", lines="2", head="true") == "line 0\nline 1\n"
    assert await shell("GET", "/head-tail", path=f"{place}/f", lines="1", head="false") == "line 29\n"
    assert (await shell("GET", "/head-tail", path=f"{place}/f")).startswith("line 20\n")
    await shell("POST", "/chmod", path=f"{place}/f", mode="u+x,go=")
    assert stat.S_IMODE((place / "f").stat().st_mode) == 0o700


async def test_names_are_found_by_part_or_by_glob(shell: Shell, place: Path) -> None:
    for name in ("a1.py", "ab.py", "note.txt", "[x].py", "xab.pyc"):
        (place / name).touch()

    async def found(pattern: str) -> list[str]:
        return [
            Path(path).name for path in (await shell("GET", "/search", path=str(place), pattern=pattern)).splitlines()
        ]

    assert await found("ote") == ["note.txt"]
    assert await found("*.py") == ["[x].py", "a1.py", "ab.py"]
    assert await found("a?.py") == ["a1.py", "ab.py"]
    assert await found("ab.py") == ["ab.py", "xab.pyc"]
    assert await found("nothing") == []


@pytest.mark.parametrize("name", ["a b", "-rf", "$(touch hacked)", "'; touch hacked; '", "a\nb", "ü", "*", "\\"])
async def test_a_name_is_only_ever_a_name(shell: Shell, place: Path, name: str) -> None:
    (place / "other").touch()
    await shell("POST", "/create", path=f"{place}/{name}")
    await shell("POST", "/chmod", path=f"{place}/{name}", mode="640")
    await shell("POST", "/copy", source=f"{place}/{name}", to=f"{place}/{name}2")
    await shell("POST", "/move", source=f"{place}/{name}2", to=f"{place}/{name}3")
    await shell("GET", "/du", path=f"{place}/{name}")
    await shell("GET", "/head-tail", path=f"{place}/{name}")
    assert {path.name for path in place.iterdir()} == {"other", name, f"{name}3"}
    await shell("DELETE", "", path=f"{place}/{name}")
    assert {path.name for path in place.iterdir()} == {"other", f"{name}3"}


async def test_what_fails_in_the_guest_is_a_200_with_an_exit_code(shell: Shell, place: Path) -> None:
    (place / "file").touch()
    no = f"{place}/no"
    for method, path, query in (
        ("GET", "/stat", {"path": no}),
        ("GET", "/du", {"path": no}),
        ("GET", "/head-tail", {"path": no}),
        ("GET", "/search", {"path": no, "pattern": "x"}),
        ("POST", "/chmod", {"path": no, "mode": "600"}),
        ("POST", "/chmod", {"path": str(place), "mode": "x"}),
        ("POST", "/copy", {"source": no, "to": f"{place}/x"}),
        ("POST", "/move", {"source": no, "to": f"{place}/x"}),
        ("POST", "/copy", {"source": f"{place}/file", "to": f"{place}/file/below"}),
        ("POST", "/mkdir", {"path": f"{place}/file/below"}),
        ("POST", "/create", {"path": f"{place}/file/below"}),
        ("POST", "/create", {"path": f"{place}/file/below", "content": "x"}),
    ):
        assert await shell.failing(method, path, **query)


async def test_a_relative_path_begins_at_the_root(shell: Shell, place: Path) -> None:
    await shell("POST", "/create", path=f"{place}/f".removeprefix("/"))
    assert (place / "f").exists()
