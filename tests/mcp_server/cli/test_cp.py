"""Files copied in, out and between by the command line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from tests.mcp_server.cli.rig import Cli
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


def content(directory: Path) -> dict[str, bytes | None]:
    """All that is below a directory; None for directories."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes() for path in directory.rglob("*")
    }


@pytest.fixture
def tree(cli: Cli) -> Path:
    """A directory with files of many kinds."""
    tree = cli.here / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "hollow").mkdir()
    (tree / "empty").touch()
    (tree / "sub" / "large").write_bytes(os.urandom(3_000_000))
    (tree / "sub" / "deep" / "naïve name\n'\"$?#%").write_text("odd")
    (tree / "run").write_text("#!/bin/sh\necho ran")
    (tree / "run").chmod(0o755)
    return tree


async def test_a_directory_goes_in_out_and_across_as_it_was(cli: Cli, guest: Path, tree: Path) -> None:
    assert (await cli("cp", "tree", f"box:{guest}")).status == 0
    assert content(guest / "tree") == content(tree)
    assert os.access(guest / "tree" / "run", os.X_OK)
    assert not os.access(guest / "tree" / "empty", os.X_OK)

    await cli("sandbox", "create", "twin")
    assert (await cli("cp", f"box:{guest}/tree", f"twin:{guest}/copy")).status == 0
    assert content(guest / "copy") == content(tree)
    assert os.access(guest / "copy" / "run", os.X_OK)

    told = (await cli("cp", f"box:{guest}/tree", "back", "--json")).json
    assert told == {"files": 4, "bytes": sum(len(text or b"") for text in content(tree).values()), "skipped": []}
    assert content(cli.here / "back") == content(tree)
    assert os.access(cli.here / "back" / "run", os.X_OK)


async def test_names_are_given_as_cp_gives_them(cli: Cli, guest: Path, tree: Path) -> None:
    for target, found in (
        (f"box:{guest}/new", "new"),
        (f"box:{guest}", "run"),
        (f"box:{guest}/", "run"),
    ):
        assert (await cli("cp", "tree/run", target)).status == 0
        assert (guest / found).read_text() == "#!/bin/sh\necho ran"
    assert (await cli("cp", "tree/.", f"box:{guest}/inside")).status == 0
    assert content(guest / "inside") == content(tree)
    (cli.here / "a:b").write_text("colon")
    assert (await cli("cp", "./a:b", f"box:{guest}/colon")).status == 0
    assert (guest / "colon").read_text() == "colon"


async def test_standard_input_and_output_are_places_too(cli: Cli, guest: Path) -> None:
    data = os.urandom(2_000_000)
    assert (await cli("cp", "-", f"box:{guest}/in", stdin=data)).status == 0
    assert (guest / "in").read_bytes() == data
    assert (await cli("cp", f"box:{guest}/in", "-")).out == data
    assert (await cli("cp", f"box:{guest}/in", "/dev/null")).status == 0
    assert Path("/dev/null").is_char_device()


async def test_a_file_is_replaced_whole_and_keeps_a_link_to_it(cli: Cli, guest: Path) -> None:
    (guest / "new").write_text("new")
    (cli.here / "old").write_text("old")
    (cli.here / "link").symlink_to("old")
    assert (await cli("cp", f"box:{guest}/new", "link")).status == 0
    assert (cli.here / "link").is_symlink()
    assert (cli.here / "old").read_text() == "new"


async def test_links_to_files_become_files_and_the_rest_is_left_out_and_said_so(cli: Cli, guest: Path) -> None:
    for place, source, target in (
        (cli.here / "odd", "odd", f"box:{guest}/in"),
        (guest / "odd", f"box:{guest}/odd", "out"),
    ):
        place.mkdir()
        (place / "file").write_text("text")
        (place / "link").symlink_to("file")
        (place / "loop").symlink_to(".")
        (place / "lost").symlink_to("nowhere")
        os.mkfifo(place / "pipe")
        done = await cli("cp", source, target)
        assert done.status == 0
        assert sorted(line.rpartition("/")[2] for line in done.err.splitlines() if "Left out" in line) == [
            "loop: a link to a directory.",
            "lost: a link to nothing.",
            "pipe: neither file nor directory.",
        ]
    assert content(guest / "in") == content(cli.here / "out") == {"file": b"text", "link": b"text"}


async def test_what_cannot_be_copied_is_refused_in_one_line_and_nothing_is_left(
    cli: Cli, guest: Path, tree: Path
) -> None:
    (guest / "file").write_text("file")
    (guest / "dir").mkdir()
    cases = {
        ("tree", "other"): "Neither is in a sandbox",
        ("nothing", f"box:{guest}"): "nothing: there is no such file",
        (f"box:{guest}/nothing", "x"): "nothing: there is no such file",
        (f"box:{guest}/nothing", "-"): "nothing",
        ("tree", "box:relative"): "absolute",
        ("tree", "nobody:/x"): "There is no sandbox 'nobody'",
        ("tree", "no body:/x"): "can be no sandbox",
        ("tree", f"box:{guest}/file"): "is a file",
        ("tree/run", f"box:{guest}/none/"): "no such directory",
        ("-", f"box:{guest}/dir"): "is a directory",
        (f"box:{guest}", f"box:{guest}/dir/x"): "cannot hold its copy",
        (f"box:{guest}/file", "none/x"): "No such file or directory",
        (f"box:{guest}/file", f"box:{guest}/file/x"): "",
        ("", f"box:{guest}/x"): "no path",
    }
    before = content(guest), content(cli.here)

    async def refused(arguments: tuple[str, str], words: str) -> None:
        assert words in (await cli("cp", *arguments, stdin=b"" if arguments[0] == "-" else None)).refusal

    async with anyio.create_task_group() as tasks:
        for arguments, words in cases.items():
            tasks.start_soon(refused, arguments, words)
    assert (content(guest), content(cli.here)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupted_download_leaves_no_half_file(cli: Cli, guest: Path, number: signal.Signals) -> None:
    with (guest / "huge").open("wb") as file:
        file.truncate(40 << 30)
    (cli.here / "huge").write_text("before")
    async with cli.started("cp", f"box:{guest}/huge", "huge") as process:
        with anyio.fail_after(PATIENCE_S):
            while not any(path.stat().st_size for path in cli.here.glob(".huge.*.part")):
                await anyio.sleep(0.02)
            process.send_signal(number)
            assert await process.wait() == 128 + number
    assert content(cli.here) == {"huge": b"before"}


async def test_an_interrupted_upload_leaves_what_was_there(cli: Cli, guest: Path) -> None:
    (guest / "file").write_text("before")
    with (cli.here / "huge").open("wb") as file:
        file.truncate(40 << 30)
    async with cli.started("cp", "huge", f"box:{guest}/file") as process:
        with anyio.fail_after(PATIENCE_S):
            while len(list(guest.iterdir())) < 2:
                await anyio.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 128 + signal.SIGINT
            while len(list(guest.iterdir())) > 1:
                await anyio.sleep(0.02)
    assert content(guest) == {"file": b"before"}


async def test_a_wait_for_standard_input_can_be_given_up(cli: Cli, guest: Path) -> None:
    async with cli.on_terminal("cp", "-", f"box:{guest}/file") as seat:
        seat.type("line\n")
        with anyio.fail_after(PATIENCE_S):
            while not list(guest.iterdir()):
                await anyio.sleep(0.02)
        seat.process.send_signal(signal.SIGINT)
        assert await seat.ended() == 128 + signal.SIGINT
    with anyio.fail_after(PATIENCE_S):
        while list(guest.iterdir()):
            await anyio.sleep(0.02)


async def test_large_files_pass_through_little_memory(cli: Cli, guest: Path) -> None:
    with (guest / "large").open("wb") as file:
        file.truncate(600 << 20)
    async with cli.started("cp", f"box:{guest}/large", "large") as process:
        most = 0
        with anyio.fail_after(PATIENCE_S):
            while process.returncode is None:
                with anyio.move_on_after(0.02):
                    await process.wait()
                most = max(most, resident(process.pid))
    assert (cli.here / "large").stat().st_size == 600 << 20
    assert most < 200 << 20
    (cli.here / "large").unlink()


def resident(pid: int) -> int:
    """Bytes of memory of a process; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


async def test_on_a_terminal_a_copy_is_shown_as_it_goes(cli: Cli, guest: Path) -> None:
    with (cli.here / "large").open("wb") as file:
        file.truncate(50 << 20)
    async with cli.on_terminal("cp", "large", f"box:{guest}") as seat:
        assert await seat.ended() == 0
        assert seat.restored
        assert b"/52.4 MB" in seat.written
    assert (guest / "large").stat().st_size == 50 << 20
