"""`casemate sandbox exec`."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import anyio
import pytest

from tests.mcp_server.cli.rig import Cli
from tests.vmm.agent.trees import grow, look
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

EXEC = ("sandbox", "exec", "box")
EXEC_STDIN = ("sandbox", "exec", "-i", "box")


async def test_the_commands_output_and_status_are_passed_on(cli: Cli) -> None:
    done = await cli(*EXEC, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.status, done.out, done.err) == (7, b"out\n", "err\n")


async def test_arguments_are_passed_unchanged_and_a_shell_line_is_run_by_a_shell(cli: Cli) -> None:
    words = ("a b", "$HOME", "'", '"', "*", "é", "-n")
    assert (await cli(*EXEC, "--", "printf", "%s\\n", *words)).text.splitlines() == list(words)
    assert (await cli(*EXEC, "--shell", "echo $((6 * 7)) | tr 4 5")).text == "52\n"


async def test_the_working_directory_and_variables_are_set(cli: Cli, guest: Path) -> None:
    done = await cli(
        *EXEC,
        "--cwd",
        str(guest),
        "--env",
        "A=x=y",
        "--env",
        "PASSED",
        "--shell",
        "pwd; echo $A$PASSED",
        env={"PASSED": "on"},
    )
    assert done.text.splitlines() == [str(guest), "x=yon"]


async def test_a_command_that_a_signal_killed_has_the_status_that_shells_use(cli: Cli) -> None:
    assert (await cli(*EXEC, "--shell", "kill -9 $$")).status == 128 + signal.SIGKILL


async def test_a_command_that_exceeds_its_timeout_is_killed_and_reported(cli: Cli) -> None:
    done = await cli(*EXEC, "--timeout", "1", "--", "sleep", "60")
    assert done.status == 128 + signal.SIGKILL
    assert "longer than 1 s" in done.err


async def test_json_output_is_printed_at_the_end(cli: Cli) -> None:
    done = await cli(*EXEC, "--json", "--shell", "echo out; echo err >&2; exit 3")
    assert done.status == 3
    assert done.object == {"stdout": "out\n", "stderr": "err\n", "exitCode": 3}


async def test_output_is_streamed_and_an_interrupt_ends_the_command(cli: Cli, guest: Path) -> None:
    async with cli.started(*EXEC, "--cwd", str(guest), "--shell", "echo $$; sleep 1000; touch survived") as process:
        assert process.stdout is not None
        with anyio.fail_after(PATIENCE_S):
            pid = int(await process.stdout.receive())
            assert Path(f"/proc/{pid}").exists()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 128 + signal.SIGINT
            while Path(f"/proc/{pid}").exists():
                await anyio.sleep(0.02)
    assert not (guest / "survived").exists()


async def test_a_reader_that_closes_the_pipe_ends_the_command_silently(cli: Cli) -> None:
    done = await cli.piped(*EXEC, "--", "yes", into="head -n 1")
    assert done.out == b"y\n"
    assert done.err == ""
    assert done.status == 128 + signal.SIGPIPE


async def test_output_is_passed_on_byte_for_byte(cli: Cli) -> None:
    done = await cli(*EXEC, "--shell", "printf 'a\\r\\n\\n\\0\\377 no end'; head -c 100000 /dev/zero")
    assert done.out == b"a\r\n\n\0\xff no end" + bytes(100_000)


async def test_standard_input_reaches_the_command_only_if_requested(cli: Cli) -> None:
    assert (await cli(*EXEC_STDIN, "--", "cat", stdin=b"in\0\xff\r\n")).out == b"in\0\xff\r\n"
    assert (await cli(*EXEC, "--", "cat", stdin=b"in")).out == b""
    assert (await cli(*EXEC_STDIN, "--", "cat", stdin=b"")).out == b""
    done = await cli(*EXEC_STDIN, "--json", "--shell", "cat; exit 5", stdin=b"in\n")
    assert (done.status, done.object) == (5, {"stdout": "in\n", "stderr": "", "exitCode": 5})


async def test_twenty_megabytes_of_input_arrive_unchanged_even_at_a_slow_reader(cli: Cli) -> None:
    data = os.urandom(20_000_000)
    digest = hashlib.sha256(data).hexdigest()
    async with anyio.create_task_group() as tasks:
        for line in ("sha256sum", "sleep 2; sha256sum"):

            async def send(line: str = line) -> None:
                assert (await cli(*EXEC_STDIN, "--shell", line, stdin=data)).text == f"{digest}  -\n"

            tasks.start_soon(send)


async def test_a_tree_is_copied_through_a_tar_pipe(cli: Cli, guest: Path) -> None:
    tree = cli.cwd / "tree"
    tree.mkdir()
    grow(tree)
    (tree / "holes").unlink()
    source = "tar c --format=pax -C tree ."
    done = await cli.piped(*EXEC_STDIN, "--", "tar", "xp", "-C", str(guest), source=source)
    assert (done.status, done.out) == (0, b""), done
    assert {**look(guest), ".": None} == {**look(tree), ".": None}


async def test_a_command_that_stops_reading_ends_an_endless_source(cli: Cli) -> None:
    done = await cli.piped(*EXEC_STDIN, "--", "head", "-n", "1", source="yes")
    assert (done.status, done.out, done.err) == (0, b"y\n", "")
    done = await cli.piped(*EXEC_STDIN, "--shell", "exec <&-; sleep 1; echo on; exit 3", source="yes")
    assert (done.status, done.out, done.err) == (3, b"on\n", "")


async def test_a_command_may_end_while_its_input_is_idle(cli: Cli) -> None:
    done = await cli.piped(*EXEC_STDIN, "--shell", "read word; echo $word; exit 4", source="(echo first; sleep 30)")
    assert (done.status, done.out) == (4, b"first\n")


async def test_input_arrives_immediately_however_long_the_pauses(cli: Cli) -> None:
    # The pause is longer than one request waits for more input.
    done = await cli.piped(
        *EXEC_STDIN, "--shell", "while read word; do echo got $word; done", source="(echo 1; sleep 2; echo 2)"
    )
    assert (done.status, done.out) == (0, b"got 1\ngot 2\n")
    async with cli.on_terminal(
        *EXEC_STDIN, "--shell", "while read word; do echo got $word; done; echo end"
    ) as terminal:
        for number in range(2):
            terminal.type(f"word{number}\n")
            await terminal.sees(f"got word{number}")
        terminal.type("\x04")
        await terminal.sees("end")
        assert await terminal.ended() == 0


async def test_an_interrupt_ends_a_command_that_waits_for_input(cli: Cli) -> None:
    async with cli.on_terminal(*EXEC_STDIN, "--shell", "echo pid $$ .; cat") as terminal:
        with anyio.fail_after(20):
            await terminal.sees(" .")
            terminal.process.send_signal(signal.SIGINT)
            assert await terminal.ended() == 128 + signal.SIGINT
            pid = int(terminal.written.split()[1])
            while Path(f"/proc/{pid}").exists():
                await anyio.sleep(0.02)
