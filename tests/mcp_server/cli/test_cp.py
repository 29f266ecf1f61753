"""`casemate cp`: copies into, out of and between sandboxes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from tests.mcp_server.cli.rig import Cli
from tests.vmm.agent.trees import grow, look, socket_at
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


def content(directory: Path) -> dict[str, bytes | None]:
    """Return the files below a directory by path; None for directories."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes() for path in directory.rglob("*")
    }


@pytest.fixture
def tree(cli: Cli) -> Path:
    """A directory with files of many kinds."""
    tree = cli.cwd / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "hollow").mkdir()
    (tree / "empty").touch()
    (tree / "sub" / "large").write_bytes(os.urandom(3_000_000))
    (tree / "sub" / "deep" / "naïve name\n'\"$?#%").write_text("odd")
    (tree / "run").write_text("#!/bin/sh\necho ran")
    (tree / "run").chmod(0o755)
    return tree


async def test_a_directory_is_copied_in_out_and_between_sandboxes_unchanged(cli: Cli, guest: Path, tree: Path) -> None:
    assert (await cli("cp", "tree", f"box:{guest}")).status == 0
    assert content(guest / "tree") == content(tree)
    assert os.access(guest / "tree" / "run", os.X_OK)
    assert not os.access(guest / "tree" / "empty", os.X_OK)

    await cli("sandbox", "create", "twin")
    assert (await cli("cp", f"box:{guest}/tree", f"twin:{guest}/copy")).status == 0
    assert content(guest / "copy") == content(tree)
    assert os.access(guest / "copy" / "run", os.X_OK)

    report = (await cli("cp", f"box:{guest}/tree", "back", "--json")).json
    size = sum(len(text or b"") for text in content(tree).values())
    assert report == {"files": 4, "bytes": size, "skipped": [], "skippedCount": 0}
    assert content(cli.cwd / "back") == content(tree)
    assert os.access(cli.cwd / "back" / "run", os.X_OK)


async def test_a_tree_with_every_kind_of_entry_is_copied_unchanged(cli: Cli, guest: Path) -> None:
    tree = cli.cwd / "tree"
    tree.mkdir()
    grow(tree)
    await cli("sandbox", "create", "twin")
    for source, target in (
        ("tree", f"box:{guest}/in"),
        (f"box:{guest}/in", f"twin:{guest}/across"),
        (f"twin:{guest}/across", "back"),
    ):
        done = await cli("cp", source, target)
        assert (done.status, done.out) == (0, b""), done
    for copy in (guest / "in", guest / "across", cli.cwd / "back"):
        assert look(copy) == look(tree)
        assert (copy / "one").samefile(copy / "sub" / "same")


async def test_a_tree_is_copied_with_one_call_each_way(cli: Cli, guest: Path) -> None:
    for number in range(300):
        (cli.cwd / "tree" / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (cli.cwd / "tree" / str(number % 7) / str(number)).write_text(str(number))
    async with cli.http() as http:
        before = int((await http.get("/api/sandboxes")).headers["ratelimit-remaining"])
        assert (await cli("cp", "tree", f"box:{guest}/in")).status == 0
        assert (await cli("cp", f"box:{guest}/in", "back")).status == 0
        after = int((await http.get("/api/sandboxes")).headers["ratelimit-remaining"])
    assert before - after < 10
    assert content(cli.cwd / "back") == content(cli.cwd / "tree")


async def test_the_target_is_interpreted_as_cp_does(cli: Cli, guest: Path, tree: Path) -> None:
    for target, found in (
        (f"box:{guest}/new", "new"),
        (f"box:{guest}", "run"),
        (f"box:{guest}/", "run"),
    ):
        assert (await cli("cp", "tree/run", target)).status == 0
        assert (guest / found).read_text() == "#!/bin/sh\necho ran"
    assert (await cli("cp", "tree/.", f"box:{guest}/inside")).status == 0
    assert content(guest / "inside") == content(tree)
    (cli.cwd / "a:b").write_text("colon")
    assert (await cli("cp", "./a:b", f"box:{guest}/colon")).status == 0
    assert (guest / "colon").read_text() == "colon"


async def test_standard_input_and_output_can_be_copied(cli: Cli, guest: Path) -> None:
    data = os.urandom(2_000_000)
    assert (await cli("cp", "-", f"box:{guest}/in", stdin=data)).status == 0
    assert (guest / "in").read_bytes() == data
    assert (await cli("cp", f"box:{guest}/in", "-")).out == data
    assert (await cli("cp", f"box:{guest}/in", "/dev/null")).status == 0
    assert Path("/dev/null").is_char_device()


async def test_a_file_is_replaced_through_a_link_that_stays(cli: Cli, guest: Path) -> None:
    (guest / "new").write_text("new")
    (cli.cwd / "old").write_text("old")
    (cli.cwd / "link").symlink_to("old")
    assert (await cli("cp", f"box:{guest}/new", "link")).status == 0
    assert (cli.cwd / "link").is_symlink()
    assert (cli.cwd / "old").read_text() == "new"


async def test_entries_that_cannot_be_copied_are_listed_with_status_1_and_the_rest_is_copied(
    cli: Cli, guest: Path
) -> None:
    for directory, source, target in (
        (cli.cwd / "odd", "odd", f"box:{guest}/in"),
        (guest / "odd", f"box:{guest}/odd", "out"),
        (guest / "more", f"box:{guest}/more", f"box:{guest}/across"),
    ):
        directory.mkdir()
        (directory / "file").write_text("text")
        (directory / "link").symlink_to("file")
        (directory / "loop").symlink_to(".")
        (directory / "lost").symlink_to("nowhere")
        os.mkfifo(directory / "pipe")
        socket_at(directory / "socket")
        done = await cli("cp", source, target)
        assert (done.status, done.err) == (1, f"Skipped {source}/socket: a socket.\nCopied 5 files, 4 B.\n")
        found = look((cli.cwd if target == "out" else guest) / target.rpartition("/")[2])
        assert found == {name: facts for name, facts in look(directory).items() if name != "socket"}
    done = await cli("cp", "odd", f"box:{guest}/again", "--json")
    assert (done.status, done.object) == (1, {"files": 5, "bytes": 4, "skipped": ["odd/socket"], "skippedCount": 1})


async def test_links_from_a_sandbox_that_point_outside_the_target_need_an_option(cli: Cli, guest: Path) -> None:
    (guest / "tree" / "bin").mkdir(parents=True)
    (guest / "tree" / "bin" / "python").symlink_to("/usr/bin/python3")
    (guest / "tree" / "up").symlink_to("../..")
    (guest / "tree" / "in").symlink_to("bin/python")
    done = await cli("cp", f"box:{guest}/tree", "out")
    assert done.status == 1
    assert sorted(done.err.splitlines()[:2]) == [
        f"Skipped box:{guest}/tree/bin/python: a link that points outside the directory.",
        f"Skipped box:{guest}/tree/up: a link that points outside the directory.",
    ]
    assert (cli.cwd / "out" / "in").is_symlink()
    assert not (cli.cwd / "out" / "up").is_symlink()
    assert (await cli("cp", f"box:{guest}/tree", "all", "--outward-links")).status == 0
    assert look(cli.cwd / "all") == look(guest / "tree")
    assert (await cli("cp", "all", f"box:{guest}/back")).status == 0
    assert look(guest / "back") == look(guest / "tree")


async def test_local_files_are_not_reached_through_links(cli: Cli, guest: Path) -> None:
    (cli.cwd / "own").mkdir()
    (cli.cwd / "own" / "file").write_text("own")
    (cli.cwd / "out").mkdir()
    (cli.cwd / "out" / "door").symlink_to("../own")
    (guest / "tree" / "door").mkdir(parents=True)
    (guest / "tree" / "door" / "file").write_text("mine")
    done = await cli("cp", f"box:{guest}/tree/.", "out")
    assert done.status == 1
    assert "Skipped" in done.err
    assert (cli.cwd / "own" / "file").read_text() == "own"


async def test_an_interrupted_download_of_a_tree_leaves_no_partial_file(cli: Cli, guest: Path) -> None:
    (guest / "tree").mkdir()
    with (guest / "tree" / "huge").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 30)
    (cli.cwd / "out").mkdir()
    (cli.cwd / "out" / "huge").write_text("before")
    async with cli.started("cp", f"box:{guest}/tree/.", "out") as process:
        with anyio.fail_after(20):
            while len(list((cli.cwd / "out").iterdir())) < 2:
                await anyio.sleep(0.002)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 128 + signal.SIGINT
    assert content(cli.cwd / "out") == {"huge": b"before"}


async def test_an_invalid_copy_fails_with_one_line_and_leaves_nothing(cli: Cli, guest: Path, tree: Path) -> None:
    (guest / "file").write_text("file")
    (guest / "dir").mkdir()
    cases = {
        ("tree", "other"): "Neither SOURCE nor TARGET is in a sandbox",
        ("nothing", f"box:{guest}"): "nothing: there is no such file",
        (f"box:{guest}/nothing", "x"): "nothing: there is no such file",
        (f"box:{guest}/nothing", "-"): "nothing",
        ("tree", "box:relative"): "absolute",
        ("tree", "nobody:/x"): "There is no sandbox 'nobody'",
        ("tree", "no body:/x"): "is not a valid sandbox",
        ("tree", f"box:{guest}/file"): "is a file",
        ("tree/run", f"box:{guest}/none/"): "no such directory",
        ("-", f"box:{guest}/dir"): "is a directory",
        (f"box:{guest}", f"box:{guest}/dir/x"): "copy to a path outside of it",
        (f"box:{guest}/file", "none/x"): "No such file or directory",
        (f"box:{guest}/file", f"box:{guest}/file/x"): "",
        ("tree", f"box:{guest}/file/x"): "",
        (f"box:{guest}/dir", "tree/run/x"): "",
        ("", f"box:{guest}/x"): "is not a path",
    }
    before = content(guest), content(cli.cwd)

    async def refused(arguments: tuple[str, str], words: str) -> None:
        assert words in (await cli("cp", *arguments, stdin=b"" if arguments[0] == "-" else None)).refusal

    async with anyio.create_task_group() as tasks:
        for arguments, words in cases.items():
            tasks.start_soon(refused, arguments, words)
    assert (content(guest), content(cli.cwd)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupted_download_leaves_no_partial_file(cli: Cli, guest: Path, number: signal.Signals) -> None:
    with (guest / "huge").open("wb") as file:
        file.truncate(40 << 30)
    (cli.cwd / "huge").write_text("before")
    async with cli.started("cp", f"box:{guest}/huge", "huge") as process:
        with anyio.fail_after(PATIENCE_S):
            while not any(path.stat().st_size for path in cli.cwd.glob(".huge.*.part")):
                await anyio.sleep(0.02)
            process.send_signal(number)
            assert await process.wait() == 128 + number
    assert content(cli.cwd) == {"huge": b"before"}


async def test_an_interrupted_upload_leaves_the_old_file(cli: Cli, guest: Path) -> None:
    (guest / "file").write_text("before")
    with (cli.cwd / "huge").open("wb") as file:
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


async def test_waiting_for_standard_input_can_be_interrupted(cli: Cli, guest: Path) -> None:
    async with cli.on_terminal("cp", "-", f"box:{guest}/file") as terminal:
        terminal.type("line\n")
        with anyio.fail_after(PATIENCE_S):
            while not list(guest.iterdir()):
                await anyio.sleep(0.02)
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 128 + signal.SIGINT
    with anyio.fail_after(PATIENCE_S):
        while list(guest.iterdir()):
            await anyio.sleep(0.02)


async def test_large_files_are_copied_in_little_memory(cli: Cli, guest: Path) -> None:
    with (guest / "large").open("wb") as file:
        file.truncate(600 << 20)
    async with cli.started("cp", f"box:{guest}/large", "large") as process:
        peak = 0
        with anyio.fail_after(PATIENCE_S):
            while process.returncode is None:
                with anyio.move_on_after(0.02):
                    await process.wait()
                peak = max(peak, resident(process.pid))
    assert (cli.cwd / "large").stat().st_size == 600 << 20
    assert peak < 200 << 20
    (cli.cwd / "large").unlink()


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


async def test_a_copy_on_a_terminal_shows_its_progress(cli: Cli, guest: Path) -> None:
    with (cli.cwd / "large").open("wb") as file:
        file.truncate(50 << 20)
    async with cli.on_terminal("cp", "large", f"box:{guest}") as terminal:
        assert await terminal.ended() == 0
        assert terminal.restored
        assert b"/52.4 MB" in terminal.written
    assert (guest / "large").stat().st_size == 50 << 20
