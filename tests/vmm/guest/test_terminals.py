from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import pytest

from tests.vmm.guest.agents import Agent, living
from tests.waiting import PATIENCE_S
from tests.waiting import until as seen
from vmm.errors import GuestError, InvalidInput, ProcessMissing
from vmm.guest.link import GuestLink
from vmm.guest.values import TerminalInfo

pytestmark = pytest.mark.anyio


async def until(link: GuestLink, terminal: TerminalInfo, text: bytes, offset: int = 0) -> bytes:
    """Return the output from an offset on, once it contains a text."""
    seen = b""
    with anyio.fail_after(PATIENCE_S):
        while text not in seen:
            output = (await link.terminal_read(terminal.terminal_id, offset=offset, wait_ms=1000)).output
            seen += output.data
            offset = output.next_offset
    return seen


async def test_a_program_gets_a_terminal_of_the_right_size(link: GuestLink) -> None:
    terminal = await link.terminal_open(cols=100, rows=30, command="tty; stty size; echo $TERM; read x; stty size")
    seen = await until(link, terminal, b"xterm-256color")
    assert b"/dev/pts/" in seen
    assert b"30 100" in seen
    await link.terminal_resize(terminal.terminal_id, cols=132, rows=43)
    await link.terminal_input(terminal.terminal_id, b"\n")
    assert b"43 132" in await until(link, terminal, b"43 132")
    await link.terminal_close(terminal.terminal_id)


async def test_a_login_shell_answers_and_its_end_is_noticed(link: GuestLink, place: str) -> None:
    terminal = await link.terminal_open(cwd=place, env={"HOME": place, "PS1": "$ ", "MARK": "x1"})
    await link.terminal_input(terminal.terminal_id, b"echo $MARK-$((6*7)); pwd; exit 5\n")
    await until(link, terminal, b"x1-42")
    with anyio.fail_after(PATIENCE_S):
        while (output := await link.terminal_read(terminal.terminal_id, wait_ms=100)).info.alive:
            pass
    assert output.info.exit_code == 5
    assert place.encode() in output.output.data
    with pytest.raises(GuestError, match="not open"):
        await link.terminal_input(terminal.terminal_id, b"x")
    await link.terminal_close(terminal.terminal_id)


async def test_a_login_shell_keeps_the_given_variables(link: GuestLink, place: str) -> None:
    Path(place, ".profile").write_text("export PATH=/profile MARK=profile OTHER=profile\n")
    path = f"{place}:/usr/bin:/bin"
    terminal = await link.terminal_open(cwd=place, env={"HOME": place, "PATH": path, "MARK": "a 'b'\n$c"})
    line = b"printf '<%s>' \"$PATH|$MARK|$OTHER|${-//[^i]/}|$(type -t fg)|$PWD\"; exit 5\n"
    await link.terminal_input(terminal.terminal_id, line)
    await until(link, terminal, f"<{path}|a 'b'\r\n$c|profile|i|builtin|{place}>".encode())
    with anyio.fail_after(20):
        while (info := (await link.terminal_read(terminal.terminal_id, wait_ms=100)).info).alive:
            pass
    assert (info.exit_code, info.command) == (5, "/bin/bash")
    await link.terminal_close(terminal.terminal_id)


async def test_job_control_works(link: GuestLink) -> None:
    marker = f"21{secrets.randbelow(10**6)}"
    terminal = await link.terminal_open(command=f"trap 'echo caught' INT; sleep {marker}; echo after")
    await seen(lambda: living(marker))
    await link.terminal_input(terminal.terminal_id, b"\x03")
    await until(link, terminal, b"after")
    await link.terminal_close(terminal.terminal_id)


async def test_a_terminal_survives_its_connections(guest: Agent, link: GuestLink) -> None:
    terminal = await link.terminal_open(command="cat")
    await link.drop_connections()
    other = guest.link()
    await other.terminal_input(terminal.terminal_id, b"still here\n")
    assert b"still here" in await until(other, terminal, b"still here")
    assert terminal.terminal_id in [info.terminal_id for info in await other.terminals()]
    await other.aclose()
    await link.terminal_close(terminal.terminal_id)
    assert terminal.terminal_id not in [info.terminal_id for info in await link.terminals()]


async def test_output_can_be_read_from_any_offset_and_the_last_mebibyte_is_kept(link: GuestLink) -> None:
    terminal = await link.terminal_open(
        command="stty raw -echo; head -c 3000000 /dev/zero | tr '\\0' x; echo END; read y"
    )
    await until(link, terminal, b"END", offset=2_999_000)
    end = (await link.terminal_read(terminal.terminal_id)).info.output_total
    first = (await link.terminal_read(terminal.terminal_id, max_bytes=10)).output
    assert first.offset == end - 1024 * 1024
    assert first.data == b"x" * 10
    last = (await link.terminal_read(terminal.terminal_id, offset=end - 4)).output
    assert (last.data, last.next_offset) == (b"END\n", end)
    await link.terminal_close(terminal.terminal_id)


async def test_much_input_arrives_during_much_output(link: GuestLink) -> None:
    terminal = await link.terminal_open(command="stty raw -echo; echo READY; cat")
    await until(link, terminal, b"READY")
    for _ in range(5):
        await link.terminal_input(terminal.terminal_id, b"z" * 100_000)
    with anyio.fail_after(PATIENCE_S):
        while (await link.terminals())[-1].output_total < 500_000:
            await anyio.sleep(0.05)
    await link.terminal_close(terminal.terminal_id)


async def test_closing_a_terminal_ends_everything_in_it(link: GuestLink) -> None:
    marker = f"20{secrets.randbelow(10**6)}"
    terminal = await link.terminal_open(command=f"trap '' HUP; sleep {marker} & sleep {marker}")
    with anyio.fail_after(PATIENCE_S):
        while len(living(marker)) < 2:
            await anyio.sleep(0.05)
    await link.terminal_close(terminal.terminal_id)
    with anyio.fail_after(PATIENCE_S):
        while living(marker):
            await anyio.sleep(0.05)


async def test_invalid_terminals_are_refused(link: GuestLink) -> None:
    for call in (
        link.terminal_open(cols=0),
        link.terminal_open(rows=5000),
        link.terminal_open(user="no-such-user"),
        link.terminal_open(cwd="/no/such"),
        link.terminal_open(command="x" * 200_000),
        link.terminal_open(env={"=": ""}),
    ):
        with pytest.raises(InvalidInput):
            await call
    for call in (
        link.terminal_read("nope"),
        link.terminal_input("nope", b""),
        link.terminal_resize("nope", cols=1, rows=1),
        link.terminal_close("nope"),
    ):
        with pytest.raises(ProcessMissing, match="nope"):
            await call
