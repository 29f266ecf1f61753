"""The tools on a real agent: what a model gets to read."""

from __future__ import annotations

import base64
import json
import re
import signal
from pathlib import Path

import anyio
import pytest

from tests.mcp_server.edge import ERAS, Edge, Era, Tools, text_of
from tests.mcp_server.host import SANDBOX
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_a_command_runs_in_both_eras_by_name_and_by_id(host: Edge, era: Era) -> None:
    async with host.client("alice", era) as client:
        for ref in ("box", SANDBOX):
            result = await client.call_tool(
                "execute_command", {"id": ref, "command": "echo hello; echo oops >&2; exit 3"}
            )
            assert not result.is_error
            assert re.fullmatch(r"hello\n\[stderr\]\noops\n\[exit 3 \| \d+ ms\]", text_of(result))


async def test_a_foreign_sandbox_is_as_unknown_as_none_at_all(host: Edge) -> None:
    async with host.client("bob") as bob:
        foreign = await bob.call_tool("execute_command", {"id": "box", "command": "true"})
        unknown = await bob.call_tool("execute_command", {"id": "bax", "command": "true"})
    assert foreign.is_error
    assert text_of(foreign).replace("'box'", "'bax'") == text_of(unknown)


async def test_a_sandbox_is_shown_in_voidruns_form(box: Tools) -> None:
    shown = json.loads(await box("get_sandbox"))
    assert shown["id"] == SANDBOX
    assert shown["status"] == "running"
    assert shown["createdAt"] == "1970-01-01T00:00:05.000Z"
    assert "env" not in str(shown).lower()


async def test_a_commands_surroundings_can_be_set(box: Tools, tmp_path: Path) -> None:
    text = await box("execute_command", command="pwd; echo $PORT $FROM_SANDBOX", cwd=str(tmp_path), env={"PORT": 8080})
    assert text.startswith(f"{tmp_path}\n8080 yes\n[exit 0")


async def test_a_timeout_kills_the_tree_and_keeps_what_was_written(box: Tools) -> None:
    text = await box("execute_command", command="echo started; sleep 60 & sleep 60", timeout=2)
    assert text.startswith("started\n[killed by its timeout of 2 s | exit 137")


async def test_the_shortest_timeout_is_not_none_at_all(box: Tools) -> None:
    assert "[killed by its timeout" in await box("execute_command", command="sleep 60", timeout=0.0004)


async def test_a_long_command_returns_its_pid_and_can_be_read_to_its_end(box: Tools, tmp_path: Path) -> None:
    command = f"echo one; until test -e {tmp_path}/go; do sleep 0.02; done; echo two; exit 4"
    text = await box("execute_command", command=command, wait=2)
    (tmp_path / "go").touch()
    match = re.search(r"still running after \d+ ms as pid (\d+)", text)
    assert match is not None, text
    assert text.startswith("one\n")
    pid = int(match.group(1))
    read = ""
    with anyio.fail_after(PATIENCE_S):
        while "[exit" not in read:
            read = await box("read_process_output", pid=pid, stdout_offset=4, wait=5)
    assert re.fullmatch(r"two\n\[exit 4 \| \d+ ms \| all output read\]", read)


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_is_given_up_kills_its_command(host: Edge, tmp_path: Path, era: Era) -> None:
    marker = tmp_path / "started"
    async with host.client("alice", era) as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                command = f"echo $$ > {marker}; exec sleep 1000"
                tasks.start_soon(client.call_tool, "execute_command", {"id": "box", "command": command})
                with anyio.fail_after(PATIENCE_S):
                    while not marker.exists() or not marker.read_text().strip():
                        await anyio.sleep(0.02)
                scope.cancel()
        pid = int(marker.read_text())
        with anyio.fail_after(PATIENCE_S):
            while Path(f"/proc/{pid}").exists():
                await anyio.sleep(0.02)
        assert (await Tools(client)("execute_command", command="echo fine")).startswith("fine")


async def test_many_calls_run_side_by_side(box: Tools, tmp_path: Path) -> None:
    texts: list[str] = []
    here = tmp_path / "here"
    here.mkdir()

    async def call(number: int) -> None:
        # Each waits for all others.
        command = f"touch {here}/{number}; until test $(ls {here} | wc -l) = 16; do sleep 0.05; done; echo"
        texts.append(await box("execute_command", command=f"{command} {number}", wait=50))

    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(call, number)
    assert sorted(int(text.splitlines()[0]) for text in texts) == list(range(16))


async def test_a_background_command_is_listed_read_and_killed(box: Tools) -> None:
    text = await box("run_background_command", command="echo ready; sleep 1000")
    pid = int(re.search(r"pid (\d+)", text)[1])  # type: ignore[index]
    assert (await box("read_process_output", pid=pid, wait=5)).startswith("ready\n[still running")
    assert re.search(rf"^pid {pid} \| running \|.*echo ready", await box("list_processes"))
    assert await box("kill_process", pid=pid) == f"Sent SIGKILL to pid {pid} and everything it started."
    with anyio.fail_after(PATIENCE_S):
        while "running" in await box("list_processes"):
            await anyio.sleep(0.02)
    assert f"pid {pid} | killed by SIGKILL | exit {128 + signal.SIGKILL}" in await box("list_processes")


async def test_an_unknown_process_is_an_error(box: Tools) -> None:
    assert "4194000" in await box.refused("read_process_output", pid=4194000)
    assert "4194000" in await box.refused("kill_process", pid=4194000)


async def test_endless_output_is_cut_and_the_command_stays_bounded(box: Tools) -> None:
    text = await box("execute_command", command="yes | head -c 5000000; echo 'fatal: the end'")
    assert len(text) <= 16_000
    assert "bytes cut here" in text
    assert text.count("fatal: the end") == 1
    assert re.search(r"\[exit 0 \| [^]]+\]$", text)


async def test_what_is_cut_from_megabytes_of_output_can_be_read(box: Tools) -> None:
    text = await box("execute_command", command="seq -w 0 700000")
    found = re.search(r"Read on: read_process_output\(.*, pid=(\d+), stdout_offset=(\d+)\)", text)
    assert found is not None
    pid, cut = int(found[1]), int(found[2])
    assert (await box("read_process_output", pid=pid, stdout_offset=cut)).startswith(f"{cut // 7:06}\n")
    assert (await box("read_process_output", pid=pid, stdout_offset=2_100_000)).startswith("300000\n300001\n")


async def test_binary_output_is_shown_with_a_warning(box: Tools) -> None:
    text = await box("execute_command", command="printf 'a\\377b\\033[31mc'")
    assert text.startswith("a\ufffdbc\n[some bytes are not UTF-8")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import sys\nprint('answer', 6 * 7)\nsys.exit(5)"),
        ("py", "print('answer', 42)\nraise SystemExit(5)"),
        ("bash", "echo answer 42\nexit 5"),
        ("sh", "echo answer $((6 * 7)); exit 5"),
    ],
)
async def test_code_runs_as_a_program_of_its_own(box: Tools, tmp_path: Path, language: str, code: str) -> None:
    text = await box("run_code", language=language, code=code, cwd=str(tmp_path))
    assert text.startswith("answer 42\n[exit 5")
    assert not list(tmp_path.glob(".run-*"))


async def test_code_finds_its_neighbours_and_shows_its_source_in_errors(box: Tools, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("VALUE = 7\n")
    text = await box("run_code", code="import neighbour\nprint(neighbour.VALUE)\n1 / 0", cwd=str(tmp_path))
    assert text.startswith("7\n[stderr]\nTraceback")
    assert "1 / 0" in text
    assert "ZeroDivisionError" in text


async def test_no_file_takes_the_place_of_a_module_of_the_standard_library(box: Tools, tmp_path: Path) -> None:
    for name in ("random", "types", "neighbour"):
        (tmp_path / f"{name}.py").write_text(f"print('mine: {name}')\n")
    code = "import random, types, dataclasses, neighbour\nprint(random.choice([7]), types.NoneType.__name__)"
    for place in ({"cwd": str(tmp_path)}, {"cwd": str(tmp_path), "env": {"PYTHONSAFEPATH": ""}}):
        text = await box("run_code", code=code, **place)
        assert text.startswith("mine: neighbour\n7 NoneType\n[exit 0"), text


async def test_a_path_for_modules_that_was_asked_for_comes_first(box: Tools, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "random.py").write_text("NAME = 'asked for'\n")
    (tmp_path / "other.py").write_text("import os, random\nprint(random.NAME, os.environ['PYTHONPATH'])\n")
    env = {"PYTHONPATH": f"{tmp_path}/lib"}
    code = "import subprocess, sys, other\nsubprocess.run([sys.executable, 'other.py'])"
    text = await box("run_code", code=code, cwd=str(tmp_path), env=env)
    assert text.startswith(f"asked for {tmp_path}/lib\n" * 2 + "[exit 0"), text


async def test_code_is_the_main_program_as_a_file_would_be(box: Tools, tmp_path: Path) -> None:
    code = """from __future__ import annotations
import inspect, multiprocessing, os, pickle, sys
def double(value: int) -> int:
    return 2 * value
if __name__ == "__main__":
    print(len(sys.argv), sys.argv[0] == __file__, os.getcwd() == os.environ["PLACE"])
    print(sorted(name for name in globals() if name[0] != "_"))
    print(inspect.getsource(double).splitlines()[0], pickle.loads(pickle.dumps(double))(2))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [1, 2]))
"""
    text = await box("run_code", code=code, cwd=str(tmp_path), env={"PLACE": str(tmp_path)}, wait=50)
    names = "['annotations', 'double', 'inspect', 'multiprocessing', 'os', 'pickle', 'sys']"
    assert text.startswith(f"1 True True\n{names}\ndef double(value: int) -> int: 4\n[2, 4]\n[exit 0"), text


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("def f():\n    1 / 0\nf()", ["line 3, in <module>", "line 2, in f"]),
        ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['x']", ["line 2, in <module>", "line 4, in <module>"]),
        ("x = (", ["line 1\n    x = (\n"]),
    ],
)
async def test_errors_of_code_show_its_own_lines_only(box: Tools, code: str, shown: list[str]) -> None:
    text = await box("run_code", code=code)
    assert [line for line in shown if line not in text] == []
    assert "<string>" not in text
    assert "exit 1" in text


async def test_a_file_is_written_read_appended_and_described(box: Tools, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "file.txt")
    assert await box("write_file", path=path, content="one\n") == f"Wrote 4 bytes; {path} has 4."
    assert await box("write_file", path=path, content="two", append=True) == f"Appended 3 bytes; {path} has 7."
    assert await box("read_file", path=path) == "one\ntwo"
    facts = json.loads(await box("file_info", path=path))
    assert (facts["type"], facts["size"], facts["mode"]) == ("file", 7, "-rw-r--r--")


async def test_json_as_content_stays_text(box: Tools, tmp_path: Path) -> None:
    path = str(tmp_path / "data.json")
    for content in ('{"a": 1}', "null", "[1]", ""):
        await box("write_file", path=path, content=content)
        assert Path(path).read_text() == content


async def test_a_long_file_is_read_in_parts_without_breaking_characters(box: Tools, tmp_path: Path) -> None:
    content = "\u20ac" * 20_000
    path = tmp_path / "long.txt"
    path.write_text(content)
    read, offset = "", 0
    for _ in range(10):
        text = await box("read_file", path=str(path), offset=offset)
        part, _, note = text.rpartition("\n[bytes ")
        read += part or text
        go_on = re.search(r"offset=(\d+)\]$", note)
        if go_on is None:
            break
        offset = int(go_on[1])
    assert read == content


async def test_binary_files_say_so_and_come_as_base64(box: Tools, tmp_path: Path) -> None:
    data = bytes(range(256))
    path = str(tmp_path / "blob")
    reply = await box("write_file", path=path, content=base64.b64encode(data).decode(), encoding="base64")
    assert reply.startswith("Wrote 256 bytes")
    reason = await box.refused("read_file", path=path)
    assert "contains binary data (256 bytes)" in reason
    assert 'encoding="base64"' in reason
    assert base64.b64decode(await box("read_file", path=path, encoding="base64")) == data


async def test_an_empty_file_says_that_it_is(box: Tools, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert await box("read_file", path=str(tmp_path / "empty")) == "[the file is empty]"


async def test_files_that_the_kernel_makes_up_are_neither_cut_silently_nor_made_longer(box: Tools) -> None:
    symbols = Path("/proc/kallsyms").read_text()
    first = await box("read_file", path="/proc/kallsyms", length=1000)
    assert first == f"{symbols[:1000]}\n[bytes 0 to 1000, and there is more; continue with offset=1000]"
    assert (await box("read_file", path="/proc/kallsyms", offset=1000, length=500)).startswith(symbols[1000:1500])
    mtu = next(Path("/sys/class/net").glob("*/mtu"))
    assert await box("read_file", path=str(mtu)) == mtu.read_text()
    nothing = await box("read_file", path=str(mtu), offset=1000)
    assert nothing == "[nothing from byte 1000 on: it ends before]"
    wrote = await box("write_file", path="/proc/self/oom_score_adj", content="100\n")
    assert wrote == "Wrote 4 bytes; /proc/self/oom_score_adj has 4."
    assert "Invalid argument" in await box.refused("write_file", path="/proc/self/oom_score_adj", content="none")


async def test_directories_are_made_listed_moved_and_deleted(box: Tools, tmp_path: Path) -> None:
    top = tmp_path / "top"
    assert await box("create_directory", path=str(top / "sub")) == f"{top}/sub exists."
    (top / "b.txt").write_text("12345")
    (top / "link").symlink_to("b.txt")
    lines = (await box("list_files", path=str(top))).splitlines()
    assert [line.split(maxsplit=4)[-1] for line in lines] == ["b.txt", "link -> b.txt", "sub/"]
    assert lines[0].startswith("-rw-r--r-- ")
    moved = await box("move_file", **{"from": str(top / "b.txt"), "to": str(top / "c.txt")})
    assert moved == f"Moved {top}/b.txt to {top}/c.txt."
    assert await box("delete_file", path=str(top)) == f"Deleted {top}."
    assert not top.exists()
    assert str(top) in await box.refused("list_files", path=str(top))


async def test_files_are_found_by_name_and_content(box: Tools, tmp_path: Path) -> None:
    (tmp_path / "alpha.py").write_text("x = 1\nneedle = 2\n")
    (tmp_path / "beta.txt").write_text("needle\n")
    assert await box("search_files", pattern="*.py", path=str(tmp_path)) == f"{tmp_path}/alpha.py"
    assert await box("search_files", pattern="lph", path=str(tmp_path)) == f"{tmp_path}/alpha.py"
    found = await box("search_files", pattern="*.py", content="needle", path=str(tmp_path))
    assert found == f"{tmp_path}/alpha.py:2: needle = 2"
    assert await box("search_files", pattern="*.rs", path=str(tmp_path)) == "No match"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("read_file", {"path": "relative"}),
        ("read_file", {"path": "/nul\0byte"}),
        ("read_file", {"path": "/no/such/file"}),
        ("read_file", {"path": "/etc"}),
        ("write_file", {"path": "/proc/nothing", "content": "x"}),
        ("list_files", {"path": "/etc/passwd"}),
        ("delete_file", {"path": "/"}),
        ("execute_command", {"command": "true", "cwd": "/no/such/directory"}),
        ("terminal_snapshot", {"terminal_id": "no-such-terminal"}),
    ],
)
async def test_what_the_guest_refuses_is_told_with_its_reason(
    box: Tools, tool: str, arguments: dict[str, object]
) -> None:
    reason = await box.refused(tool, **arguments)
    assert "Internal error" not in reason
    assert len(reason) < 400


async def test_ten_mebibytes_go_in_and_out(box: Tools, tmp_path: Path) -> None:
    content = "x" * (10 * 1024 * 1024)
    await box("write_file", path=str(tmp_path / "big"), content=content)
    assert (tmp_path / "big").stat().st_size == len(content)
    text = await box("read_file", path=str(tmp_path / "big"), length=80_000)
    assert text.endswith("[bytes 0 to 80000 of 10485760; continue with offset=80000]")


async def test_a_terminal_shows_what_a_person_would_see(box: Tools) -> None:
    opened = await box("terminal_open", command="bash --norc", cols=60, rows=10)
    match = re.match(r"\[terminal_id (\S+) \| 60x10 \| cursor row \d+ column \d+ \|", opened)
    assert match is not None, opened
    terminal = match[1]
    sent = await box(
        "terminal_send", terminal_id=terminal, text="echo $((40 + 2))-done", keys=["enter"], pattern="42-done", wait=10
    )
    assert "pattern found" in sent
    assert "42-done" in sent.splitlines()[2]
    await box("terminal_send", terminal_id=terminal, text="sleep 1000", keys=["enter"])
    await box("terminal_send", terminal_id=terminal, keys=["ctrl-c"])
    await box("terminal_send", terminal_id=terminal, text="exit 7", keys=["enter"])
    ended = await box("terminal_snapshot", terminal_id=terminal, wait=10)
    assert "ended with exit 7" in ended.splitlines()[0]
    assert await box("terminal_close", terminal_id=terminal) == "Closed."
    assert terminal in await box.refused("terminal_snapshot", terminal_id=terminal)


async def test_a_flood_in_a_terminal_is_passed_over_quickly(box: Tools) -> None:
    opened = await box("terminal_open", command="sh -c 'yes | head -c 3000000; echo; echo the end; sleep 1000'")
    terminal = opened.split()[1]
    text = await box("terminal_snapshot", terminal_id=terminal, pattern="the end", wait=20)
    assert "pattern found" in text
    assert "bytes of earlier output skipped" in opened + text
    await box("terminal_close", terminal_id=terminal)


@pytest.mark.parametrize("era", ERAS)
async def test_files_are_resources(host: Edge, tmp_path: Path, era: Era) -> None:
    (tmp_path / "note.md").write_text("# hello")
    (tmp_path / "pixel.png").write_bytes(b"\x89PNG\xff")
    async with host.client("alice", era) as client:
        (text,) = (await client.read_resource(f"casemate://sandbox/box/files{tmp_path}/note.md")).contents
        (blob,) = (await client.read_resource(f"casemate://sandbox/box/files/{tmp_path}/pixel.png")).contents
        with pytest.raises(Exception, match="nothing"):
            await client.read_resource("casemate://sandbox/box/files/nothing")
    assert (getattr(text, "text", ""), text.mime_type) == ("# hello", "text/markdown")
    assert base64.b64decode(getattr(blob, "blob", "")) == b"\x89PNG\xff"
    assert blob.mime_type == "image/png"
