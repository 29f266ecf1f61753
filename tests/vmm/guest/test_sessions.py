"""Sessions on a real agent: what is kept between commands, and how a command's end is known."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.vmm.guest.agents import agent, living
from tests.waiting import PATIENCE_S, until
from vmm.errors import Conflict, GuestError, InvalidInput, ProcessMissing
from vmm.guest.link import GuestLink
from vmm.guest.values import SessionOutcome

pytestmark = pytest.mark.anyio

SHELLS = ("bash", "dash")


class Session:
    """A session, and commands in it."""

    def __init__(self, link: GuestLink, name: str) -> None:
        self.link = link
        self.name = name

    async def start(self, command: str, *, timeout_ms: int = 60_000) -> int:
        return await self.link.session_start(self.name, command, timeout_ms=timeout_ms)

    async def end(self, number: int) -> SessionOutcome:
        with anyio.fail_after(PATIENCE_S):
            while (outcome := await self.link.session_wait(self.name, number, wait_ms=5_000)).state.running:
                pass
        return outcome

    async def run(self, command: str, *, timeout_ms: int = 60_000) -> tuple[str, int | None]:
        outcome = await self.end(await self.start(command, timeout_ms=timeout_ms))
        assert not outcome.output.dropped
        return outcome.output.data().decode(), outcome.state.exit_code

    async def shown(self, number: int, text: bytes) -> None:
        with anyio.fail_after(PATIENCE_S):
            while text not in (await self.link.session_read(self.name, number, wait_ms=100)).output.data:
                pass


@asynccontextmanager
async def opened(link: GuestLink, **options: Any) -> AsyncGenerator[Session]:
    """A session for the length of a block, which may end it."""
    session = Session(link, f"s{secrets.token_hex(4)}")
    await link.session_open(session.name, **options)
    yield session
    with suppress(ProcessMissing):
        await link.session_close(session.name)


@pytest.fixture(params=SHELLS)
async def session(request: pytest.FixtureRequest, link: GuestLink, place: str) -> AsyncGenerator[Session]:
    async with opened(link, shell=request.param, cwd=place) as session:
        yield session


@pytest.fixture
async def bash(link: GuestLink, place: str) -> AsyncGenerator[Session]:
    async with opened(link, cwd=place) as session:
        yield session


async def test_directory_variables_and_functions_last(session: Session, place: str) -> None:
    assert await session.run("mkdir in; cd in; A='x  y'; export B=b; f() { echo \"f $1\"; }") == ("", 0)
    assert await session.run('pwd; echo "$A"; sh -c "echo \\$B"; f 1') == (f"{place}/in\nx  y\nb\nf 1\n", 0)


async def test_output_and_status_are_those_of_the_command(session: Session) -> None:
    assert await session.run("printf out; printf err >&2; (exit 7)") == ("outerr", 7)
    assert await session.run("echo $?; printf 'two\nlines\n' # a comment") == ("7\ntwo\nlines\n", 0)
    assert await session.run("cat <<'END'\n$A 'b' \"c\" `d` \\\nEND") == ("$A 'b' \"c\" `d` \\\n", 0)
    assert await session.run("for i in 1 2; do\n  echo $i\ndone\n\n") == ("1\n2\n", 0)


async def test_a_mistake_ends_the_command_and_not_the_session(session: Session) -> None:
    for mistake in ("if", "echo 'unfinished", "no-such-program", "${x:?is missing}", ")", "set -u; echo $no_such"):
        output, code = await session.run(mistake)
        assert code in {1, 2, 127}, mistake
        assert output, mistake
        assert await session.run("set +u; echo fine") == ("fine\n", 0)


async def test_prompts_and_traces_of_the_shell_itself_are_not_shown(session: Session) -> None:
    assert await session.run("PS1='(venv) ' PS2='more '; export PS1; echo on") == ("on\n", 0)
    assert await session.run("echo one\necho two") == ("one\ntwo\n", 0)
    await session.run("set -x")
    output, _ = await session.run("echo traced")
    assert output.endswith("echo traced\ntraced\n")
    assert "printf" not in output


async def test_no_output_is_taken_for_the_end(session: Session) -> None:
    for number in range(5):
        await session.run(f"echo {number}")
    fakes = 'for n in 1 2 3 4 5 6 7 8 9; do echo "$n 0"; echo "$n 0" >&8; done; echo true'
    output, code = await session.run(f"{fakes} 2>/dev/null")
    assert output.endswith("true\n")
    assert code == 0
    reached = "for f in /proc/self/fd/*; do test $f -ef /proc/self/fd/1 || readlink $f; done"
    assert "pipe" not in (await session.run(f"sh -c '{reached}'"))[0]


async def test_much_output_is_complete_at_the_end(session: Session) -> None:
    output, code = await session.run("i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo line $i; done; printf tail")
    assert (output, code) == ("".join(f"line {i}\n" for i in range(1, 5001)) + "tail", 0)


async def test_an_output_of_megabytes_is_read_whole_from_the_disk(tmp_path: Path) -> None:
    content = secrets.token_bytes(5_000_000)
    (tmp_path / "noise").write_bytes(content)
    (tmp_path / "outputs").mkdir()
    with agent(tmp_path, "--outputs", str(tmp_path / "outputs")) as running:
        link = running.link()
        async with opened(link) as session:
            number = await session.start(f"cat {tmp_path}/noise; printf end")
            outcome = await session.end(number)
            assert (outcome.number, outcome.output.total) == (number, len(content) + 3)
            found = b""
            while len(found) < outcome.output.total:
                read = await link.session_read(session.name, number, offset=len(found))
                assert read.output.offset == len(found)
                found += read.output.data
            assert found == content + b"end"
            await session.run("true")
            with pytest.raises(ProcessMissing, match="last command is"):
                await link.session_read(session.name, number)
        await link.aclose()


async def test_a_long_command_is_taken_whole(session: Session) -> None:
    text = "it's a 'quote' " * 6_000
    assert await session.run(f"cat <<'END'\n{text}\nEND") == (f"{text}\n", 0)


async def test_a_command_reads_its_input_from_the_terminal(session: Session) -> None:
    number = await session.start('read a; read b; echo "got $a and $b"; stty size')
    await session.link.session_resize(session.name, cols=90, rows=30)
    await session.link.session_input(session.name, b"one\n")
    await session.link.session_input(session.name, b"two\n")
    outcome = await session.end(number)
    assert outcome.output.data() == b"got one and two\n30 90\n"
    with pytest.raises(GuestError, match="no command runs"):
        await session.link.session_input(session.name, b"echo lost\n")


async def test_one_command_at_a_time(session: Session) -> None:
    number = await session.start("read x; echo $x")
    with pytest.raises(Conflict, match="runs another command"):
        await session.start("echo other")
    await session.link.session_input(session.name, b"x\n")
    assert (await session.end(number)).output.data() == b"x\n"


@pytest.mark.parametrize(
    "command",
    [
        "sleep {marker}; echo not this",
        "for i in 1 2 3; do sleep {marker}; done; echo not this",
        "f() {{ sleep {marker}; echo not this; }}; f; echo not this",
        "sh -c 'sleep {marker}; echo not this' | cat; echo not this",
        "while :; do :; done; sleep {marker}",
    ],
)
async def test_an_interrupted_command_leaves_the_session(session: Session, command: str) -> None:
    await session.run("A=kept")
    marker = f"23{secrets.randbelow(10**6)}"
    number = await session.start(f"echo begun; {command.format(marker=marker)}")
    await session.shown(number, b"begun")
    if not command.startswith("while"):
        await until(lambda: living(marker))
    await session.link.session_interrupt(session.name, number)
    outcome = await session.end(number)
    assert outcome.state.exit_code == 130
    assert b"not this" not in outcome.output.data()
    assert not living(marker)
    assert await session.run("echo $A $?") == ("kept 130\n", 0)


async def test_a_key_can_interrupt_too(session: Session) -> None:
    number = await session.start("echo begun; sleep 87.41; echo after")
    await session.shown(number, b"begun")
    await session.link.session_input(session.name, b"\x03")
    assert (await session.end(number)).state.exit_code == 130


async def test_a_command_beyond_its_time_is_interrupted(session: Session) -> None:
    outcome = await session.end(await session.start("echo begun; sleep 87.42", timeout_ms=300))
    assert (outcome.state.timed_out, outcome.state.exit_code, outcome.state.ended) == (True, 130, False)
    assert outcome.output.data().startswith(b"begun\n")
    assert await session.run("echo on") == ("on\n", 0)


async def test_a_command_that_ignores_the_interrupt_is_killed_with_its_session(session: Session) -> None:
    marker = f"24{secrets.randbelow(10**6)}"
    command = f"trap '' INT; echo begun; sleep {marker}; sleep {marker}"
    outcome = await session.end(await session.start(command, timeout_ms=500))
    assert (outcome.state.timed_out, outcome.state.exit_code, outcome.state.ended) == (True, 137, True)
    assert not living(marker)
    with pytest.raises(ProcessMissing, match="has ended with exit code 137"):
        await session.start("true")


async def test_the_end_of_the_shell_ends_the_session(session: Session) -> None:
    outcome = await session.end(await session.start("echo bye; exit 5"))
    assert (outcome.state.exit_code, outcome.state.ended) == (5, True)
    assert outcome.output.data().startswith(b"bye\n")
    await session.link.session_open(session.name)
    assert await session.run("echo again") == ("again\n", 0)


async def test_what_a_command_starts_in_the_background_goes_on(session: Session) -> None:
    marker = f"25{secrets.randbelow(10**6)}"
    assert (await session.run(f"sleep {marker} & echo started"))[0].endswith("started\n")
    await until(lambda: living(marker))
    number = await session.start("echo begun; sleep 87.43")
    await session.shown(number, b"begun")
    await session.link.session_interrupt(session.name, number)
    await session.end(number)
    assert living(marker)
    await session.link.session_close(session.name)
    await until(lambda: not living(marker))


async def test_a_terminal_that_a_killed_program_left_raw_is_restored(session: Session) -> None:
    await session.run("stty raw echo; sh -c 'kill -KILL $$'")
    number = await session.start("read x; echo $x")
    await session.link.session_input(session.name, b"x\n")
    assert (await session.end(number)).output.data() == b"x\n"


async def test_sessions_are_apart(link: GuestLink) -> None:
    async with opened(link) as one, opened(link) as other:
        number = await one.start("A=one; read x")
        assert await other.run("echo ${A-none}") == ("none\n", 0)
        await link.session_input(one.name, b"\n")
        await one.end(number)
        with pytest.raises(Conflict, match="already"):
            await link.session_open(one.name)


async def test_a_session_outlives_its_connections(link: GuestLink, bash: Session) -> None:
    await bash.run("A=kept")
    await link.drop_connections()
    assert await bash.run("echo $A") == ("kept\n", 0)


async def test_variables_and_directory_are_given_at_the_start(link: GuestLink, place: str) -> None:
    async with opened(link, cwd=place, env={"A": "a b"}, cols=77, rows=11, shell="/bin/bash") as session:
        assert await session.run("pwd; echo $A; stty size; echo $0 $TERM") == (f"{place}\na b\n11 77\nbash dumb\n", 0)


def pretended_shell(place: str, script: str) -> str:
    """A program by the name of bash."""
    path = Path(place, "bash")
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_shell_that_does_not_start_is_refused(link: GuestLink, place: str) -> None:
    with pytest.raises(GuestError, match="did not start"):
        await link.session_open("never", shell=pretended_shell(place, "exit 3"))
    with pytest.raises(ProcessMissing):
        await link.session_close("never")


async def test_a_session_that_nobody_waits_for_any_more_is_not_kept(link: GuestLink, place: str) -> None:
    shell = pretended_shell(place, f'until test -e {place}/go; do sleep 0.02; done; exec /bin/bash "$@"')

    async def there() -> bool:
        try:
            await link.session_read("left", 0)
        except ProcessMissing:
            return False
        return True

    async def not_there() -> bool:
        return not await there()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: link.session_open("left", shell=shell))
        await until(there)
        tasks.cancel_scope.cancel()
    Path(place, "go").touch()
    await until(not_there)


async def test_sessions_are_bounded_in_number(link: GuestLink) -> None:
    names = [f"n{number}" for number in range(32)]
    for name in names:
        await link.session_open(name, shell="dash")
    with pytest.raises(GuestError, match="at most 32"):
        await link.session_open("one more")
    for name in names:
        await link.session_close(name)


async def test_bad_sessions_are_refused(link: GuestLink, bash: Session) -> None:
    for call in (
        link.session_open("x", shell="fish"),
        link.session_open("x", shell="/no/such/bash"),
        link.session_open("x", shell="bash\0"),
        link.session_open("x", cols=0),
        link.session_open("x", cwd="/no/such"),
        link.session_open(""),
        link.session_open("x" * 101),
        link.session_start(bash.name, " ", timeout_ms=0),
        link.session_start(bash.name, "a\0", timeout_ms=0),
        link.session_start(bash.name, "x" * 200_000, timeout_ms=0),
    ):
        with pytest.raises(InvalidInput):
            await call
    for call in (
        link.session_start("nope", "true", timeout_ms=0),
        link.session_wait("nope", 1, wait_ms=0),
        link.session_read(bash.name, 99),
        link.session_input("nope", b""),
        link.session_resize("nope", cols=1, rows=1),
        link.session_interrupt("nope", 1),
        link.session_close("nope"),
    ):
        with pytest.raises(ProcessMissing):
            await call
