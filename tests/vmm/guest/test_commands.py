from __future__ import annotations

import os
import secrets
from pathlib import Path

import anyio
import pytest

from tests.vmm.guest.agents import Agent, groups, living
from tests.waiting import PATIENCE_S, until
from vmm.errors import GuestError, InvalidInput, ProcessMissing
from vmm.guest.link import GuestLink
from vmm.guest.values import Command

pytestmark = pytest.mark.anyio
ROOT = os.geteuid() == 0
PATIENCE_MS = 1000 * PATIENCE_S


def shell(line: str, **more: object) -> Command:
    return Command(shell=line, **more)  # pyright: ignore[reportArgumentType]


async def gone(marker: str) -> bool:
    with anyio.move_on_after(PATIENCE_S):
        while living(marker):
            await anyio.sleep(0.02)
    return not living(marker)


async def listed(link: GuestLink, marker: str) -> bool:
    return any(marker in process.command for process in await link.processes())


async def test_both_streams_and_the_exit_code_are_returned(link: GuestLink) -> None:
    outcome = await link.exec(shell("echo out; echo err >&2; exit 7"), wait_ms=PATIENCE_MS)
    assert (outcome.stdout.head, outcome.stderr.head) == (b"out\n", b"err\n")
    assert (outcome.running, outcome.exit_code, outcome.signal, outcome.timed_out) == (False, 7, None, False)


async def test_output_and_input_are_binary_safe(link: GuestLink) -> None:
    data = bytes(range(256)) * 1000
    outcome = await link.exec(Command(argv=("cat",), stdin=data), wait_ms=PATIENCE_MS)
    assert outcome.stdout.data() == data
    assert outcome.stdout.dropped == 0


async def test_megabytes_of_input_arrive_and_head_and_tail_are_returned(link: GuestLink) -> None:
    data = os.urandom(5_000_000)
    outcome = await link.exec(Command(argv=("cat",), stdin=data), wait_ms=PATIENCE_MS, keep_head=1000, keep_tail=3000)
    assert outcome.stdout.head == data[:1000]
    assert outcome.stdout.tail == data[-3000:]
    assert (outcome.stdout.total, outcome.stdout.dropped) == (len(data), len(data) - 4000)


async def test_unread_input_does_no_harm(link: GuestLink) -> None:
    outcome = await link.exec(Command(argv=("true",), stdin=b"x" * 1_000_000), wait_ms=PATIENCE_MS)
    assert outcome.exit_code == 0


async def test_no_shell_changes_the_arguments(link: GuestLink) -> None:
    outcome = await link.exec(Command(argv=("printf", "%s|", "a b", "$HOME", "*", "é\n")), wait_ms=PATIENCE_MS)
    assert outcome.stdout.data() == "a b|$HOME|*|é\n|".encode()


async def test_the_environment_is_the_default_plus_the_given_variables(link: GuestLink) -> None:
    command = Command(argv=("env",), env={"EXTRA": "1 2", "LANG": "C"})
    lines = (await link.exec(command, wait_ms=PATIENCE_MS)).stdout.data().decode().splitlines()
    names = dict(line.split("=", 1) for line in lines)
    assert names["EXTRA"] == "1 2"
    assert names["LANG"] == "C"
    assert names["TERM"] == "dumb"
    assert set(names) == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "EXTRA"}


async def test_a_command_starts_with_clean_signals_and_descriptors(link: GuestLink) -> None:
    line = "grep -E 'Sig(Ign|Blk)' /proc/self/status; umask; ls /proc/self/fd; yes | head -1"
    outcome = await link.exec(shell(line), wait_ms=PATIENCE_MS)
    _, blocked, _, ignored, *rest = outcome.stdout.data().decode().split()
    assert int(blocked, 16) == 0
    assert int(ignored, 16) & ~(0b11 << 31) == 0  # The C library reserves 32 and 33.
    assert rest == ["0022", "0", "1", "2", "3", "y"]
    assert outcome.stderr.data() == b""


async def test_a_command_runs_in_the_given_directory(link: GuestLink, place: str) -> None:
    assert (await link.exec(shell("pwd", cwd=place), wait_ms=PATIENCE_MS)).stdout.data().decode().strip() == place
    assert (await link.exec(shell("pwd"), wait_ms=PATIENCE_MS)).exit_code == 0


async def test_a_signal_is_reported_as_a_shell_reports_it(link: GuestLink) -> None:
    outcome = await link.exec(shell("kill -SEGV $$"), wait_ms=PATIENCE_MS)
    assert (outcome.exit_code, outcome.signal) == (128 + 11, 11)


@pytest.mark.skipif(not ROOT, reason="needs root")
async def test_a_user_has_its_own_ids_and_home(link: GuestLink) -> None:
    outcome = await link.exec(shell("id -u; id -g; id -G; echo $USER $HOME", user="nobody"), wait_ms=PATIENCE_MS)
    assert outcome.stdout.data().decode().split() == ["65534", "65534", "65534", "nobody", "/nonexistent"]
    by_number = await link.exec(shell("id -u", user="65534"), wait_ms=PATIENCE_MS)
    assert by_number.stdout.data() == b"65534\n"


@pytest.mark.skipif(not ROOT, reason="needs root")
async def test_a_user_lacks_the_rights_of_root(link: GuestLink) -> None:
    with pytest.raises(InvalidInput, match=r"cwd.*Permission denied"):
        await link.exec(Command(argv=("true",), user="nobody", cwd="/root"), wait_ms=PATIENCE_MS)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Command(), "got nothing"),
        (shell("  "), "got nothing"),
        (shell("true", argv=("true",)), "got both"),
        (Command(argv=("",)), "empty"),
        (Command(argv=("no-such-program",)), "no-such-program"),
        (Command(argv=("/etc/passwd",)), "Permission denied"),
        (Command(argv=("/etc",)), "Permission denied"),
        (shell("true", cwd="relative"), "absolute"),
        (shell("true", cwd="/no/such/place"), "No such file"),
        (shell("true", cwd="/etc/passwd"), "Not a directory"),
        (shell("true", user="no-such-user"), "no-such-user"),
        (shell("true", env={"A=B": "c"}), "A=B"),
        (shell("true", env={"": "c"}), "variable names"),
        (shell("a\0b"), "NUL"),
        (Command(argv=("echo", "a\0b")), "NUL"),
        (shell("echo \ud800"), "Unicode"),
        (Command(argv=("echo", "x" * 10 * 1024 * 1024)), "at most 131071 bytes"),
        (shell("x" * 131_072), "at most 131071 bytes"),
        (Command(argv=("echo", *["x" * 100_000] * 11)), "at most"),
        (shell("true", timeout_ms=-1), "timeout_ms"),
        (shell("cat", stdin=b"x" * (8 * 1024 * 1024 + 1)), "stdin"),
    ],
)
async def test_a_bad_command_is_refused_with_its_reason(link: GuestLink, command: Command, reason: str) -> None:
    before = len(await link.processes())
    with pytest.raises(InvalidInput, match=reason):
        await link.exec(command, wait_ms=PATIENCE_MS)
    with pytest.raises(InvalidInput, match=reason):
        await link.start(command)
    assert len(await link.processes()) == before


async def test_the_longest_possible_argument_arrives(link: GuestLink) -> None:
    outcome = await link.exec(Command(argv=("printf", "%s", "x" * 131_071)), wait_ms=PATIENCE_MS)
    assert outcome.stdout.total == 131_071


async def test_a_timeout_kills_the_whole_tree_and_keeps_the_output(link: GuestLink) -> None:
    marker = f"10{secrets.randbelow(10**6)}"
    line = f"echo begun; sleep {marker} & setsid sleep {marker} & (setsid sh -c 'sleep {marker}; true') & wait"
    outcome = await link.exec(shell(line, timeout_ms=2000), wait_ms=PATIENCE_MS)
    assert (outcome.timed_out, outcome.exit_code, outcome.running) == (True, 137, False)
    assert outcome.stdout.data() == b"begun\n"
    assert await gone(marker)


async def test_a_cancelled_wait_kills_the_tree(link: GuestLink) -> None:
    marker = f"11{secrets.randbelow(10**6)}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: link.exec(shell(f"sleep {marker} & sleep {marker}"), wait_ms=PATIENCE_MS))
        await until(lambda: len(living(marker)) == 2)
        tasks.cancel_scope.cancel()
    assert await gone(marker)


async def test_a_detached_command_survives_a_cancelled_wait(link: GuestLink, tmp_path: Path) -> None:
    marker = f"14{secrets.randbelow(10**6)}"
    line = f"until test -e {tmp_path}/go; do sleep 0.02; done; echo done; : {marker}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: link.exec(shell(line), wait_ms=PATIENCE_MS, detach=True))
        await until(lambda: listed(link, marker))
        tasks.cancel_scope.cancel()
    last = (await link.processes())[-1]
    assert last.running
    (tmp_path / "go").touch()
    assert (await link.wait(last.pid, wait_ms=PATIENCE_MS)).stdout.data() == b"done\n"


async def test_a_command_that_takes_longer_continues_under_its_pid(link: GuestLink, tmp_path: Path) -> None:
    line = f"echo one; until test -e {tmp_path}/go; do sleep 0.02; done; echo two"
    outcome = await link.exec(shell(line), wait_ms=2000)
    (tmp_path / "go").touch()
    assert (outcome.running, outcome.exit_code, outcome.stdout.data()) == (True, None, b"one\n")
    later = await link.wait(outcome.pid, wait_ms=PATIENCE_MS)
    assert (later.running, later.exit_code, later.stdout.data()) == (False, 0, b"one\ntwo\n")


async def test_a_background_child_that_keeps_the_pipe_open_does_not_delay_the_answer(
    link: GuestLink, tmp_path: Path
) -> None:
    line = f"(until test -e {tmp_path}/go; do sleep 0.02; done; echo late) & echo early"
    outcome = await link.exec(shell(line), wait_ms=PATIENCE_MS)
    assert (outcome.running, outcome.stdout.data()) == (False, b"early\n")
    (tmp_path / "go").touch()
    late = await link.read_output(outcome.pid, stdout_offset=outcome.stdout.total)
    while not late.stdout.data:
        await anyio.sleep(0.02)
        late = await link.read_output(outcome.pid, stdout_offset=outcome.stdout.total)
    assert late.stdout.data == b"late\n"


async def test_a_signal_after_a_commands_end_reaches_its_remaining_children(guest: Agent, link: GuestLink) -> None:
    if not any(guest.holds(group) for group in groups()):
        pytest.skip("without groups there is nothing that ties them together")
    marker = f"12{secrets.randbelow(10**6)}"
    outcome = await link.exec(shell(f"setsid sleep {marker} >/dev/null 2>&1 & true"), wait_ms=PATIENCE_MS)
    for _ in range(3):  # Their group must not be reused in the meantime.
        await link.exec(Command(argv=("true",)), wait_ms=PATIENCE_MS)
    await until(lambda: bool(living(marker)))
    await link.signal(outcome.pid, 9)
    assert await gone(marker)


async def test_a_process_started_in_the_background_can_be_followed(link: GuestLink) -> None:
    info = await link.start(shell("for i in 1 2 3; do echo $i; sleep 0.05; done; echo end >&2"))
    assert info.running
    output = {"stdout": b"", "stderr": b""}
    async with link.attach(info.pid) as chunks:
        async for chunk in chunks:
            assert chunk.offset == len(output[chunk.stream])
            output[chunk.stream] += chunk.data
    assert output == {"stdout": b"1\n2\n3\n", "stderr": b"end\n"}
    async with link.attach(info.pid, stdout_offset=2, stderr_offset=4) as chunks:
        assert [(chunk.offset, chunk.data) async for chunk in chunks] == [(2, b"2\n3\n")]


async def test_a_process_keeps_running_after_its_follower_leaves(link: GuestLink, tmp_path: Path) -> None:
    info = await link.start(shell(f"echo a; until test -e {tmp_path}/go; do sleep 0.02; done; echo b"))
    async with link.attach(info.pid) as chunks:
        async for chunk in chunks:
            assert chunk.data == b"a\n"
            break
    (tmp_path / "go").touch()
    assert (await link.wait(info.pid, wait_ms=PATIENCE_MS)).stdout.data() == b"a\nb\n"


async def test_finished_processes_stay_listed_and_readable(link: GuestLink) -> None:
    outcome = await link.exec(Command(argv=("echo", "it's", "kept")), wait_ms=PATIENCE_MS)
    listed = {info.pid: info for info in await link.processes()}
    assert listed[outcome.pid].command == """echo 'it'"'"'s' kept"""
    assert listed[outcome.pid].exit_code == 0
    read = await link.read_output(outcome.pid, stdout_offset=5)
    assert (read.stdout.offset, read.stdout.data, read.stdout.next_offset) == (5, b"kept\n", 10)


async def test_only_the_last_hundred_finished_processes_are_kept(link: GuestLink) -> None:
    for _ in range(105):
        await link.exec(Command(argv=("true",)), wait_ms=PATIENCE_MS)
    ended = [info for info in await link.processes() if not info.running]
    assert 100 <= len([info for info in ended if not info.background]) <= 101


async def test_reading_waits_for_new_output(link: GuestLink) -> None:
    info = await link.start(shell("sleep 0.3; echo x; sleep 1000"))
    output = await link.read_output(info.pid, wait_ms=PATIENCE_MS)
    assert output.stdout.data == b"x\n"
    nothing = await link.read_output(info.pid, stdout_offset=2, wait_ms=100)
    assert nothing.stdout.data == b""
    await link.signal(info.pid)
    ended = await link.read_output(info.pid, stdout_offset=2, wait_ms=PATIENCE_MS)
    assert (ended.info.exit_code, ended.info.signal) == (143, 15)


async def test_input_can_be_sent_to_a_running_process(link: GuestLink) -> None:
    info = await link.start(Command(argv=("cat",), stdin=b"first "), open_stdin=True)
    await link.send_stdin(info.pid, b"second ")
    await link.send_stdin(info.pid, b"third" * 100_000, eof=True)
    outcome = await link.wait(info.pid, wait_ms=PATIENCE_MS)
    assert outcome.stdout.data().startswith(b"first second third")
    assert outcome.stdout.total == 13 + 500_000
    with pytest.raises(GuestError, match="not open"):
        await link.send_stdin(info.pid, b"more")


async def test_too_much_unread_input_is_refused(link: GuestLink) -> None:
    info = await link.start(Command(argv=("sleep", "1000")), open_stdin=True)
    with pytest.raises(GuestError, match="does not read"):
        for _ in range(10):
            await link.send_stdin(info.pid, b"x" * 1_000_000)
    await link.signal(info.pid, 9)
    assert (await link.wait(info.pid, wait_ms=PATIENCE_MS)).signal == 9


async def test_a_signal_reaches_the_whole_process_tree(link: GuestLink) -> None:
    marker = f"13{secrets.randbelow(10**6)}"
    info = await link.start(shell(f"setsid sleep {marker} & sleep {marker}"))
    await until(lambda: len(living(marker)) == 2)
    await link.signal(info.pid, 15)
    assert await gone(marker)


async def test_an_unknown_pid_is_reported_as_missing(link: GuestLink) -> None:
    for call in (link.wait(1, wait_ms=10), link.read_output(1), link.signal(1), link.send_stdin(1, b"")):
        with pytest.raises(ProcessMissing, match="process 1"):
            await call
    with pytest.raises(ProcessMissing):
        async with link.attach(1) as chunks:
            async for _ in chunks:
                pass
    with pytest.raises(InvalidInput, match="signal must be 1 to 64, got 65"):
        await link.signal(1, 65)


async def test_a_hundred_commands_at_once(link: GuestLink) -> None:
    results: list[bytes] = []

    async def run(number: int) -> None:
        results.append((await link.exec(shell(f"sleep 0.2; echo {number}"), wait_ms=PATIENCE_MS)).stdout.data())

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(run, number)
    assert sorted(map(int, results)) == list(range(100))


async def test_many_commands_leave_no_descriptors_open(guest: Agent, link: GuestLink) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path(f"/proc/{guest.process.pid}/fd").iterdir())

    await link.exec(Command(argv=("true",)), wait_ms=PATIENCE_MS)
    before = descriptors()
    for _ in range(50):
        await link.exec(shell("true", stdin=b"x", user="0" if ROOT else ""), wait_ms=PATIENCE_MS)
        with pytest.raises(InvalidInput):
            await link.exec(Command(argv=("/etc/passwd",)), wait_ms=PATIENCE_MS)
        with pytest.raises(InvalidInput):
            await link.exec(shell("true", cwd="/nowhere"), wait_ms=PATIENCE_MS)
    assert descriptors() <= before + 3


async def test_forgetting_finished_commands_keeps_running_ones(link: GuestLink) -> None:
    done = await link.exec(Command(shell="echo gone"), wait_ms=PATIENCE_MS)
    running = await link.start(Command(shell="sleep 30"))
    await link.forget()
    assert [info.pid for info in await link.processes() if info.pid in {done.pid, running.pid}] == [running.pid]
    with pytest.raises(ProcessMissing):
        await link.wait(done.pid, wait_ms=0)
    await link.signal(running.pid, 9)
    assert (await link.wait(running.pid, wait_ms=PATIENCE_MS)).signal == 9
