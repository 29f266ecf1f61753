"""`casemate run`: specs are run on a server; its machines are processes of this host."""

from __future__ import annotations

import hashlib
import json
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from tests.mcp_server.cli.rig import Cli, Result
from tests.mcp_server.rest.command_calls import gone
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

WriteSpec = Callable[..., str]


def step(name: str, line: str, *needs: str, **more: Any) -> dict[str, Any]:
    """A step that is a line of shell."""
    run = {"program": "sh", "args": ["-c", line], **more.pop("run", {})}
    return {"name": name, "run": run, "depends_on": list(needs), **more}


@pytest.fixture
def write(cli: Cli) -> WriteSpec:
    """Writes a spec, and returns the name of its file."""

    def written(*steps: dict[str, Any], sandbox: dict[str, Any] | None = None, **workflow: Any) -> str:
        spec: dict[str, Any] = {
            "kind": "workflow",
            "name": "Some Work!",
            "workflow": {"steps": list(steps), **workflow},
        }
        if not steps:
            spec = {"kind": "sandbox", "name": "place"}
        (cli.cwd / "spec.json").write_text(json.dumps(spec | {"sandbox": sandbox or {"memory_mb": 512}}))
        return "spec.json"

    return written


@pytest.fixture
def run(cli: Cli, guest: Path) -> Callable[..., Any]:
    """Runs a spec in a directory of the guest."""

    async def ran(file: str, *options: str, env: dict[str, str] | None = None) -> Result:
        return await cli("run", "--file", file, "--working-dir", guest, *options, env=env)

    return ran


async def sandboxes(cli: Cli) -> list[str]:
    return [one["name"] for one in (await cli("sandbox", "list", "--json")).json]


async def test_a_workflow_is_run_and_its_result_printed(cli: Cli, write: WriteSpec, run: Any, guest: Path) -> None:
    file = write(
        step("gather", "printf 'a\\nb\\n'; pwd > where"), step("count", "wc -l", "gather"), step("rest", "true")
    )
    done = await run(file)
    assert done.text.splitlines() == [
        "name: Some Work!",
        "kind: workflow",
        "success: true",
        "stages: 3",
        "cost: 0.000000",
        "tokens: 0 in / 0 out",
    ]
    assert (guest / "where").read_text().strip() == str(guest)
    assert await sandboxes(cli) == ["box"]


async def test_the_result_is_json_for_programs_and_nothing_else_is_printed(write: WriteSpec, run: Any) -> None:
    file = write(step("gather", "printf 'a\\nb\\n'"), step("count", "wc -l", "gather"), output_step="count")
    done = await run(file, "--output", "json")
    found = done.json
    assert done.err == ""
    states = found.pop("stage_states")
    assert found.pop("output").strip() == "2"
    assert found == {
        "name": "Some Work!",
        "kind": "workflow",
        "success": True,
        "stages": 2,
        "total_cost_usd": 0.0,
        "input_tokens": 0,
        "output_tokens": 0,
    }
    assert [(one["stage_name"], one["depends_on"], one["status"], one["exit_code"]) for one in states] == [
        ("gather", [], "succeeded", 0),
        ("count", ["gather"], "succeeded", 0),
    ]
    assert all(one["started_at"] <= one["completed_at"] and one["duration_ms"] >= 0 for one in states)


async def test_a_run_without_success_has_status_1_and_says_why(cli: Cli, write: WriteSpec, run: Any) -> None:
    file = write(step("bad", "echo broken >&2; exit 4"), step("next", "true", "bad"), step("end", "true", "next"))
    done = await run(file)
    assert done.status == 1
    assert b"success: false\n" in done.out
    assert done.err.splitlines()[2:] == [
        "[workflow:Some Work!] step 1/3 bad: running",
        "[workflow:Some Work!] step 1/3 bad: failed: exit status 4: broken",
        '[workflow:Some Work!] step 2/3 next: skipped: dependency "bad" failed',
        '[workflow:Some Work!] step 3/3 end: skipped: dependency "next" skipped',
    ]
    assert await sandboxes(cli) == ["box"]


async def test_a_step_beyond_its_time_limit_is_killed_with_all_that_it_started(write: WriteSpec, run: Any) -> None:
    marker = str(uuid.uuid4())
    file = write(step("slow", f"sh -c 'sleep 1000; : {marker}' & wait", timeout_secs=1))
    (state,) = (await run(file, "--output", "json")).object["stage_states"]
    assert (state["status"], state["exit_code"]) == ("failed", 128 + signal.SIGKILL)
    assert state["reason"] == "killed: it took longer than 1 s"
    await gone(marker)


async def test_a_program_that_does_not_exist_fails_its_step(write: WriteSpec, run: Any) -> None:
    file = write({"name": "a", "run": {"program": "no-such-program", "args": ["$HOME", "a b"]}})
    (state,) = (await run(file, "--output", "json")).object["stage_states"]
    assert (state["status"], state["exit_code"]) == ("failed", 127)
    assert "no-such-program" in state["reason"]


async def test_programs_get_their_arguments_unchanged(write: WriteSpec, run: Any) -> None:
    words = ["a b", "$HOME", "'", '"', "*", "é", "-n", "", "a\nb"]
    file = write({"name": "a", "run": {"program": "printf", "args": ["%s|", *words]}})
    assert (await run(file, "--output", "json")).json["output"] == "".join(f"{word}|" for word in words)


async def test_output_is_handed_from_step_to_step_byte_by_byte(write: WriteSpec, run: Any) -> None:
    file = write(
        step("a", "head -c 2000000 /dev/zero | tr '\\000' '\\377'; printf '\\000'"),
        step("b", "sha256sum", run={"stdin_from": "a"}),
        step("c", "exec <&-", "a"),
        output_step="b",
    )
    found = (await run(file, "--output", "json")).json
    assert found["output"].split()[0] == hashlib.sha256(b"\xff" * 2_000_000 + b"\0").hexdigest()
    assert [one["status"] for one in found["stage_states"]] == ["succeeded"] * 3


async def test_variables_are_the_specs_and_empty_ones_the_hosts(write: WriteSpec, run: Any) -> None:
    env = {"OWN": "x=y", "PASSED": "", "MISSING": ""}
    file = write(step("a", "echo $OWN $PASSED ${MISSING-none}"), sandbox={"memory_mb": 512, "env": env})
    done = await run(file, env={"PASSED": "from here"})
    assert done.out.endswith(b"output:\nx=y from here none\n")
    warning = "spec.json: sandbox.env.MISSING: is empty, and this host has no MISSING: it is left out"
    assert f"warning: {warning}\n" in done.err
    assert "[vm:Some Work!] gets variables of this host: PASSED\n" in done.err
    done = await run(file, "--output", "json", env={"PASSED": "from here"})
    assert (done.json["warnings"], done.err) == ([warning], "")


async def test_input_precedes_the_output_of_a_workflow(write: WriteSpec, run: Any) -> None:
    file = write(step("a", "echo out"))
    assert (await run(file, "--input", "in", "--output", "json")).json["output"] == "in\nout\n"
    refused = await run(write(), "--input", "in")
    assert (refused.status, refused.out) == (1, b"")
    assert "error: --input: a sandbox has no output that it could precede: leave it out" in refused.err


@pytest.mark.parametrize("field", [{"mounts": [{"host": ".", "guest": "/x"}]}, {"kernel": "/k"}])
async def test_what_cannot_be_done_is_refused_before_anything_is_started(
    cli: Cli, write: WriteSpec, run: Any, field: dict[str, Any], guest: Path
) -> None:
    file = write(step("a", "touch started"), sandbox=field)
    refused = await run(file)
    assert (refused.status, refused.out) == (1, b"")
    (line,) = refused.err.splitlines()
    assert line.startswith("error: spec.json:1:")
    assert not (guest / "started").exists()
    assert await sandboxes(cli) == ["box"]


async def test_what_the_server_refuses_is_an_error(cli: Cli, write: WriteSpec, run: Any) -> None:
    refused = await run(write(step("a", "true"), sandbox={"image": "nosuch"}), "--output", "json")
    assert (refused.status, refused.out) == (1, b"")
    assert "nosuch" in json.loads(refused.err)["error"]["message"]
    dir_refused = await cli("run", "--file", write(step("a", "true")), "--working-dir", "/proc/none/x")
    assert dir_refused.status == 1
    assert "error: --working-dir: cannot make /proc/none/x" in dir_refused.err
    assert await sandboxes(cli) == ["box"]
    assert (await cli.using(key="cm_wrong")("run", "--file", write(step("a", "true")))).status == 1


async def test_a_machine_may_start_from_a_snapshot(cli: Cli, write: WriteSpec, run: Any) -> None:
    kept = (await cli("snapshot", "create", "box", "base", "--json")).json
    assert (await run(write(step("a", "echo out"), sandbox={"snapshot": kept["name"]}))).text.endswith("out\n")
    refused = await run(write(step("a", "echo out"), sandbox={"snapshot": "missing"}))
    assert refused.status == 1
    assert "missing" in refused.err.splitlines()[-1]


async def sees(process: Process, text: str) -> None:
    """Read a command's progress until a text comes."""
    assert process.stderr is not None
    seen = ""
    with anyio.move_on_after(PATIENCE_S):
        async for piece in TextReceiveStream(process.stderr):
            seen += piece
            if text in seen:
                return
    raise AssertionError(seen)


@pytest.mark.parametrize("at", ["[vm:Some Work!] starting", "[vm:Some Work!] running as", "step 1/1 a: running"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_machine_at_every_stage(
    cli: Cli, write: WriteSpec, guest: Path, at: str, number: signal.Signals
) -> None:
    file = write(step("a", "sleep 1000"))
    async with cli.started("run", "--file", file, "--working-dir", str(guest)) as process:
        await sees(process, at)
        process.send_signal(number)
        with anyio.fail_after(PATIENCE_S):
            assert await process.wait() == 128 + number
    assert await sandboxes(cli) == ["box"]


async def test_a_sandbox_runs_until_ctrl_c_and_that_is_success(cli: Cli, write: WriteSpec, guest: Path) -> None:
    async with cli.started("run", "--file", write(), "--working-dir", str(guest)) as process:
        await sees(process, "Ctrl-C ends it")
        (name,) = set(await sandboxes(cli)) - {"box"}
        assert name.startswith("place-")
        found = (await cli("sandbox", "get", name, "--json")).json
        assert (found["ttlSeconds"], found["autoSleep"]) == (900, False)
        assert (await cli("sandbox", "exec", name, "--", "echo", "hello")).text == "hello\n"
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(PATIENCE_S):
            assert await process.wait() == 0
        assert process.stdout is not None
        assert b"success: true\n" in await process.stdout.receive()
    assert await sandboxes(cli) == ["box"]


async def test_a_sandbox_that_is_gone_ends_its_run(cli: Cli, write: WriteSpec, guest: Path) -> None:
    async with cli.started("run", "--file", write(), "--working-dir", str(guest)) as process:
        await sees(process, "Ctrl-C ends it")
        (name,) = set(await sandboxes(cli)) - {"box"}
        assert (await cli("sandbox", "rm", name)).status == 0
        await sees(process, "was deleted meanwhile")
        with anyio.fail_after(PATIENCE_S):
            assert await process.wait() == 1


async def test_a_terminal_shows_a_banner_and_progress(cli: Cli, write: WriteSpec, guest: Path) -> None:
    file = write(step("a", "echo 'the output'"))
    async with cli.on_terminal("run", "--file", file, "--working-dir", str(guest)) as terminal:
        await terminal.sees("the output")
        assert await terminal.ended() == 0
        assert "a machine of its own for every run" in terminal.shown
        assert "step 1/1 a: succeeded in" in terminal.shown
    async with cli.on_terminal("run", "--no-banner", "--file", file, "--working-dir", str(guest)) as terminal:
        await terminal.sees("the output")
        assert await terminal.ended() == 0
        assert "a machine of its own" not in terminal.shown


async def test_a_machine_that_dies_ends_the_run(cli: Cli, write: WriteSpec, guest: Path) -> None:
    file = write(step("a", "sleep 1000", retries=3))
    async with cli.started("run", "--file", file, "--working-dir", str(guest)) as process:
        await sees(process, "step 1/1 a: running")
        (name,) = set(await sandboxes(cli)) - {"box"}
        assert (await cli("sandbox", "rm", name)).status == 0
        with anyio.fail_after(PATIENCE_S):
            assert await process.wait() == 1
    assert await sandboxes(cli) == ["box"]
