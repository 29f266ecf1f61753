"""`casemate shell` on a real terminal."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

from tests.mcp_server.cli.rig import Cli, Terminal

pytestmark = pytest.mark.anyio

SH = ("shell", "box", "--command", "PS1='ready> ' exec sh")


async def ready(terminal: Terminal) -> None:
    """Wait for the shell's prompt."""
    await terminal.sees("ready>")
    assert terminal.raw


async def sessions(cli: Cli) -> list[dict[str, Any]]:
    """Return the existing sessions."""
    async with cli.http() as http:
        return (await http.get("/api/sandboxes/box/pty/sessions")).json()["data"]["sessions"]


async def test_a_shell_forwards_keys_and_output_and_exits_with_its_status(cli: Cli) -> None:
    async with cli.on_terminal(*SH) as terminal:
        await ready(terminal)
        terminal.type("echo $((40 + 2)); tty\r")
        await terminal.sees("42")
        await terminal.sees("/dev/")
        terminal.type("exit 7\r")
        assert await terminal.ended() == 7
        assert terminal.restored
    assert await sessions(cli) == []


async def test_control_keys_reach_the_program_not_the_command_line(cli: Cli) -> None:
    async with cli.on_terminal(*SH) as terminal:
        await ready(terminal)
        terminal.type("sh -c 'echo $((40 + 2)); exec sleep 1000'\r")
        await terminal.sees("42")
        terminal.type("\x03")
        await terminal.sees("^C")
        terminal.type("echo woke$?\r")
        await terminal.sees("woke130")
        terminal.type("\x04")
        assert await terminal.ended() == 0
        assert terminal.restored


async def test_the_size_follows_the_terminal(cli: Cli) -> None:
    async with cli.on_terminal(*SH) as terminal:
        await ready(terminal)
        terminal.type("stty size\r")
        await terminal.sees("24 132")
        terminal.resize(100, 30)
        for _ in range(20):
            terminal.type("stty size\r")
            await terminal.sees("size")
            if "30 100" in terminal.shown:
                break
        await terminal.sees("30 100")
        terminal.type("exit\r")
        assert await terminal.ended() == 0


async def test_a_detached_session_keeps_running_and_can_be_attached_again(cli: Cli) -> None:
    async with cli.on_terminal(*SH) as terminal:
        await ready(terminal)
        terminal.type("word=kept; stty rows 9 cols 99\r")
        await terminal.sees("word=kept")
        terminal.type("~.")
        assert await terminal.ended() == 0
        assert terminal.restored
        found = re.search(r"--attach\s+(\S+)", terminal.shown)
        assert found is not None, terminal.shown
    async with cli.on_terminal("shell", "box", "--attach", found[1]) as terminal:
        await terminal.sees("word=kept")
        terminal.type("echo [$word]; stty size; exit 3\r")
        await terminal.sees("[kept]")
        await terminal.sees("24 132")
        assert await terminal.ended() == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_restores_the_terminal_and_closes_the_session(cli: Cli, number: signal.Signals) -> None:
    async with cli.on_terminal(*SH) as terminal:
        await ready(terminal)
        terminal.process.send_signal(number)
        assert await terminal.ended() == 128 + number
        assert terminal.restored
    assert await sessions(cli) == []


async def test_a_shell_needs_a_terminal(cli: Cli) -> None:
    assert "casemate sandbox exec" in (await cli("shell", "box")).refusal


async def test_a_missing_session_is_reported_and_the_terminal_restored(cli: Cli) -> None:
    for arguments, words in (
        (("shell", "nobody"), "no sandbox 'nobody'"),
        (("shell", "box", "--attach", "f" * 12), "f" * 12),
        (("shell", "box", "--attach", "x", "--command", "y"), "give one of them"),
    ):
        async with cli.on_terminal(*arguments) as terminal:
            assert await terminal.ended() == 2
            assert words in " ".join(terminal.shown.split())
            assert terminal.restored


async def test_a_lost_connection_restores_the_terminal_and_says_how_to_return(cli: Cli) -> None:
    async with cli.on_terminal(*SH) as terminal:
        await ready(terminal)
        async with cli.http() as http:
            (key,) = (await http.get("/api/orgs/apikeys")).json()
            await http.delete(f"/api/orgs/apikeys/{key['id']}")
        assert await terminal.ended() == 2
        assert terminal.restored
        assert "--attach" in terminal.shown


async def test_multibyte_characters_arrive_whole(cli: Cli) -> None:
    async with cli.on_terminal("shell", "box", "--command", "echo ready; cat; echo over") as terminal:
        await terminal.sees("ready")
        terminal.type("größer 漢字\r")
        await terminal.sees("größer")
        terminal.type("\x04")
        await terminal.sees("over")
        assert await terminal.ended() == 0
        assert terminal.written.decode().count("größer 漢字") == 2
