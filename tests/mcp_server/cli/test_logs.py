"""`casemate logs`: the output of background commands."""

from __future__ import annotations

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.mcp_server.cli.rig import Cli
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


async def started(cli: Cli, command: str) -> int:
    """Start a command in the background and return its process id."""
    async with cli.http() as http:
        return (await http.post("/api/sandboxes/box/commands/run", json={"command": command})).json()["pid"]


async def printed(cli: Cli, pid: int, what: str) -> bool:
    """Return whether a command has ended, or has printed a text."""
    async with cli.http() as http:
        body = {"pid": pid, "follow": False}
        answer = (await http.post("/api/sandboxes/box/commands/attach", json=body)).text
    return ("event: exit" if what == "ended" else what) in answer.replace("event:exit", "event: exit")


async def test_without_background_commands_there_are_no_logs(cli: Cli) -> None:
    done = await cli("logs", "box")
    assert (done.status, done.out, done.err) == (0, b"", "No background commands.\n")
    assert (await cli("logs", "box", "--json")).json == []


async def test_output_of_running_and_ended_commands_is_shown_byte_for_byte(cli: Cli) -> None:
    over = await started(cli, "printf 'no end\\n\\377'; echo err >&2; exit 3")
    on = await started(cli, "echo begun; sleep 1000")
    await until(lambda: printed(cli, over, "ended"))
    await until(lambda: printed(cli, on, "begun"))
    done = await cli("logs", "box", str(over))
    assert (done.status, done.out, done.err) == (0, b"no end\n\xff", "err\n")
    both = (await cli("logs", "box")).out
    assert f"==> {over} (ended with 3): printf".encode() in both
    assert f"==> {on} (running): echo begun; sleep 1000 <==\nbegun\n".encode() in both
    kept = {one["pid"]: one for one in (await cli("logs", "box", "--json")).json}
    assert (kept[on]["stdout"], kept[on]["running"]) == ("begun\n", True)
    assert (kept[over]["stderr"], kept[over]["exitCode"]) == ("err\n", 3)


async def test_the_running_command_is_followed_to_its_end(cli: Cli) -> None:
    await started(cli, "true")
    on = await started(cli, f"echo begun; until test -e {cli.cwd}/go; do sleep 0.02; done; echo over; exit 4")
    async with cli.started("logs", "box", "-f") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output = BufferedByteReceiveStream(process.stdout)
        with anyio.fail_after(PATIENCE_S):
            assert await output.receive_until(b"\n", 100) == b"begun"
            (cli.cwd / "go").touch()
            assert await output.receive_until(b"\n", 100) == b"over"
            assert await process.wait() == 0
        assert (await process.stderr.receive()).decode() == f"Command {on} ended with status 4.\n"


async def test_one_of_several_commands_must_be_given(cli: Cli) -> None:
    pids = [await started(cli, "sleep 1000") for _ in range(2)]
    assert f"give one of these PIDs: {pids[0]}, {pids[1]}" in (await cli("logs", "box", "-f")).refusal
