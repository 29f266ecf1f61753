"""Archives inside of a sandbox, over REST."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import httpx
import pytest

from tests.mcp_server.rest.conftest import BASE, Rest, data_of, rest_server
from tests.vmm.agent.test_hostile_archives import Archive
from tests.vmm.agent.trees import MIB, grow, look, socket_at
from tests.waiting import PATIENCE_S, until
from vmm.fleet import Fleet

pytestmark = pytest.mark.anyio

COMPRESS, EXTRACT = f"{BASE}/files/compress", f"{BASE}/files/extract"
HURRY = httpx.Timeout(PATIENCE_S, read=0.05)
FORMATS = ("tar", "tar.gz", "tar.bz2", "zip")


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar.bz2"])
async def test_a_directory_is_packed_next_to_itself_and_unpacked_elsewhere(
    http: httpx.AsyncClient, place: Path, form: str
) -> None:
    tree = place / "tree"
    tree.mkdir()
    grow(tree)
    made = data_of(await http.post(COMPRESS, params={"path": str(tree), "format": form}))
    archive = f"{tree}.{form}"
    assert (made["exitCode"], made["stderr"], made["skippedCount"]) == (0, "", 0)
    assert (made["archive"], made["archiveBytes"]) == (archive, Path(archive).stat().st_size)
    assert made["stdout"] == f"{archive}: {made['files']} files packed, {made['archiveBytes']} bytes\n"
    done = data_of(await http.post(EXTRACT, params={"archive": archive, "dest": f"{place}/new/there"}))
    assert (done["exitCode"], done["stderr"], done["path"]) == (0, "", f"{place}/new/there")
    assert (done["files"], done["bytes"]) == (made["files"], made["bytes"])
    assert look(place / "new/there/tree") == look(tree)


async def test_the_format_is_gzip_and_the_place_the_archives_own_unless_a_call_says_otherwise(
    http: httpx.AsyncClient, place: Path
) -> None:
    (place / "file").write_text("before")
    relative = f"{place}/file".removeprefix("/")
    made = data_of(await http.post(COMPRESS, params={"path": relative}))
    assert made["archive"] == f"{place}/file.tar.gz"
    assert made["stdout"].startswith(f"{place}/file.tar.gz: 1 file packed, ")
    (place / "file").write_text("after")
    assert data_of(await http.post(EXTRACT, params={"archive": f"{place}/file.tar.gz"}))["path"] == str(place)
    assert (place / "file").read_text() == "before"


@pytest.mark.parametrize("form", FORMATS)
async def test_what_is_left_out_is_named_and_the_exit_code_says_so(
    http: httpx.AsyncClient, place: Path, form: str
) -> None:
    (place / "tree").mkdir()
    (place / "tree" / "file").write_text("file")
    socket_at(place / "tree" / "socket")
    made = data_of(await http.post(COMPRESS, params={"path": f"{place}/tree", "format": form}))
    assert (made["exitCode"], made["stderr"]) == (1, "left out: tree/socket: a socket\n")
    assert (made["files"], made["skipped"]) == (1, [{"path": "tree/socket", "reason": "a socket"}])
    (place / "bad.tar").write_bytes(Archive().add("../up", data=b"x").add("good", data=b"x").data)
    done = data_of(await http.post(EXTRACT, params={"archive": f"{place}/bad.tar", "dest": f"{place}/into"}))
    assert (done["exitCode"], done["stderr"]) == (1, "left out: ../up: its path contains '..'\n")
    assert done["stdout"] == f"{place}/into: 1 file unpacked, 1 bytes\n"
    assert [path.name for path in (place / "into").iterdir()] == ["good"]
    many = Archive()
    for number in range(1200):
        many.add(f"../{number}")
    (place / "many.tar").write_bytes(many.data)
    done = data_of(await http.post(EXTRACT, params={"archive": f"{place}/many.tar"}))
    assert (done["skippedCount"], len(done["skipped"])) == (1200, 1000)
    assert done["stderr"].endswith("left out: 200 more\n")


async def test_a_failure_in_the_guest_is_an_exit_code_and_leaves_nothing(rest: Rest, place: Path) -> None:
    (place / "bad.tgz").write_bytes(b"\x1f\x8b" + os.urandom(1000))
    async with rest.http() as http:
        for path, query, says in (
            (COMPRESS, {"path": f"{place}/none"}, "No such file"),
            (COMPRESS, {"path": "/dev/null"}, "neither a directory nor a regular file"),
            (EXTRACT, {"archive": f"{place}/none.zip"}, "No such file"),
            (EXTRACT, {"archive": f"{place}/bad.tgz", "dest": f"{place}/new"}, "damaged; nothing was unpacked"),
            (EXTRACT, {"archive": f"{place}/bad.tgz", "dest": f"{place}/bad.tgz"}, "Not a directory"),
        ):
            failed = data_of(await http.post(path, params=query))
            assert (failed["exitCode"], failed["stdout"]) == (2, "")
            assert says in failed["stderr"]
    assert [path.name for path in place.iterdir()] == ["bad.tgz"]


async def test_only_a_key_that_may_run_makes_and_unpacks_archives(rest: Rest, place: Path) -> None:
    (place / "file").touch()
    async with rest.http("reader") as reader, rest.http("bob") as bob:
        for path, query in ((COMPRESS, {"path": f"{place}/file"}), (EXTRACT, {"archive": f"{place}/x.tar"})):
            assert (await reader.post(path, params=query)).status_code == 403
            assert (await bob.post(path, params=query)).status_code == 404
    assert [path.name for path in place.iterdir()] == ["file"]


@pytest.mark.parametrize("form", ["tar", "zip"])
async def test_a_client_that_goes_away_leaves_nothing(rest: Rest, place: Path, form: str) -> None:
    (place / "tree").mkdir()
    with (place / "tree" / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 300 * MIB)
    async with rest.http() as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(COMPRESS, params={"path": f"{place}/tree", "format": form}, timeout=HURRY)
        await until(lambda: any(state.get("action") == "file.compress" for state in rest.states))
        await until(lambda: [path.name for path in place.iterdir()] == ["tree"])
        made = data_of(await http.post(COMPRESS, params={"path": f"{place}/tree", "format": form}))
        with pytest.raises(httpx.ReadTimeout):
            await http.post(EXTRACT, params={"archive": made["archive"], "dest": f"{place}/new/into"}, timeout=HURRY)
        await until(lambda: any(state.get("action") == "file.extract" for state in rest.states))
        await until(lambda: {path.name for path in place.iterdir()} == {"tree", f"tree.{form}"})


@pytest.mark.vm
async def test_archives_are_made_and_unpacked_in_a_machine(fleet: Fleet) -> None:
    async with rest_server(fleet) as machines, machines.http("alice") as http:
        fields = {"name": "box", "image": "code", "mem": 1024}
        made = await http.post("/api/sandboxes", json=fields, timeout=PATIENCE_S)
        assert made.status_code == 201, made.text
        base = f"/api/sandboxes/{made.json()['data']['id']}"

        async def run(command: str) -> str:
            outcome = data_of(await http.post(f"{base}/exec", json={"command": command, "timeout": 300}))
            assert outcome["exitCode"] == 0, outcome
            return outcome["stdout"]

        async def call(operation: str, **query: str) -> dict[str, object]:
            outcome = data_of(await http.post(f"{base}/files/{operation}", params=query, timeout=PATIENCE_S))
            assert outcome["exitCode"] == 0, outcome
            return outcome

        await run(
            "mkdir -p /root/tree/sub && cd /root/tree && cp -rL /etc/ssl sub && head -c 3000000 /dev/urandom > big && "
            "ln -s sub up && touch empty 'a b' && chmod 600 big"
        )
        facts = "find {} -printf '%P %y %m %s %l %Ts\\n' | sort; cd {} && find . -type f -exec sha256sum {{}} + | sort"

        def facts_of(tree: str) -> str:
            return facts.format(tree, shlex.quote(tree))

        # Sizes of directories depend on their history.
        wanted = [line for line in (await run(facts_of("/root/tree"))).splitlines() if " d " not in line]
        for form in FORMATS:
            await call("compress", path="/root/tree", format=form)
            await call("extract", archive=f"/root/tree.{form}", dest=f"/root/{form}/back")
            got = (await run(facts_of(f"/root/{form}/back/tree"))).splitlines()
            assert [line for line in got if " d " not in line] == wanted, form
        listing = await run(
            "cd /root && tar tf tree.tar | sort | md5sum; tar tzf tree.tar.gz | sort | md5sum; "
            "tar tjf tree.tar.bz2 | sort | md5sum; unzip -tq tree.zip"
        )
        *sums, tested = listing.splitlines()
        assert len(set(sums)) == 1
        assert "No errors detected" in tested
        assert (await run("ls -A /root | grep casemate || true")) == ""
        assert (await http.delete(base)).status_code == 200
