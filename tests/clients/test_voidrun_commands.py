"""VoidRun's Python clients run commands and code in a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.voidrun_package import CodeInterpreter, Commands, Sandbox, calls, raw

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

LONG = """
import json
words = ["a", "b"]


print(json.dumps({"words": words, "sum": 1 + 1}))
"""
"""Code with empty lines, which the client writes to a file first."""


class Heard:
    """What a stream of output said."""

    def __init__(self) -> None:
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self.exits: list[dict[str, Any]] = []
        self.errors: list[Exception] = []

    def handlers(self) -> dict[str, Callable[[Any], None]]:
        return {
            "on_stdout": self._stdout.append,
            "on_stderr": self._stderr.append,
            "on_exit": self.exits.append,
            "on_error": self.errors.append,
        }

    @property
    def stdout(self) -> str:
        return "".join(self._stdout)

    @property
    def stderr(self) -> str:
        return "".join(self._stderr)


@calls(Sandbox.exec)
def test_a_command_gives_its_output_and_exit_code(box: Any) -> None:
    ran = box.exec('echo "Hello from VoidRun"')
    assert (ran.data.stdout, ran.data.stderr, ran.data.exit_code) == ("Hello from VoidRun\n", "", 0)
    assert ran.status_code == 200
    failed = box.exec(command="pwd; echo $WORD >&2; exit 3", cwd="/tmp", env={"WORD": "told"}, timeout=60)
    assert (failed.data.stdout, failed.data.stderr, failed.data.exit_code) == ("/tmp\n", "told\n", 3)
    request = raw.ExecRequest(command="echo hi", args=["ignored"], cwd="/")
    assert box.exec(request).data.stdout == "hi\n"


def test_a_command_that_takes_too_long_says_so(box: Any) -> None:
    late = box.exec("echo begun; sleep 60", timeout=1)
    assert late.data.stdout == "begun\n"
    assert late.data.exit_code != 0
    assert "1 s" in late.data.stderr


def test_large_output_arrives_whole(box: Any) -> None:
    ran = box.exec("seq 1 400000; seq 1 200000 >&2")
    assert ran.data.stdout == "".join(f"{number}\n" for number in range(1, 400_001))
    assert ran.data.stderr == "".join(f"{number}\n" for number in range(1, 200_001))


@calls(Sandbox.exec_stream)
def test_output_is_heard_as_it_comes_with_all_its_lines(box: Any) -> None:
    heard = Heard()
    box.exec_stream("seq 3; echo; echo four five; echo wrong >&2; exit 4", **heard.handlers())
    assert (heard.stdout, heard.stderr) == ("1\n2\n3\n\nfour five\n", "wrong\n")
    assert [told["exitCode"] for told in heard.exits] == [4]
    assert heard.errors == []


def test_a_stream_loses_no_character_of_long_lines(box: Any) -> None:
    heard = Heard()
    box.exec_stream("python3 -c \"print('word ' * 80_000, end='.')\"", **heard.handlers())
    assert heard.stdout == "word " * 80_000 + "."


@calls(Sandbox.run_code, CodeInterpreter.run, CodeInterpreter.run_code)
def test_code_runs_in_every_language(box: Any) -> None:
    for language, code in (
        ("python", "print(2 + 2)"),
        ("javascript", "console.log(2 + 2)"),
        ("node", "console.log(2 + 2)"),
        ("typescript", "const n: number = 4; console.log(n)"),
        ("bash", "echo $((2 + 2))"),
        ("sh", "echo $((2 + 2))"),
    ):
        ran = box.run_code(code, language=language)
        assert (ran.success, ran.stdout, ran.exit_code, ran.results) == (True, "4\n", 0, 4), (language, ran)
    wrong = box.interpreter.run("raise ValueError('it''s wrong')")
    assert (wrong.success, wrong.exit_code) == (False, 1)
    assert wrong.error is not None
    assert "ValueError: its wrong" in wrong.error
    told = box.interpreter.run_code("import os; print(os.getcwd(), os.environ['WORD'])", cwd="/srv", env={"WORD": "x"})
    assert told.stdout == "/srv x\n"
    assert box.run_code(LONG).results == {"words": ["a", "b"], "sum": 2}


@calls(Sandbox.run_code_async, CodeInterpreter.run_async, CodeInterpreter.run_code_async)
async def test_code_runs_without_blocking(async_box: Any) -> None:
    assert (await async_box.run_code_async("print(1)")).stdout == "1\n"
    assert (await async_box.interpreter.run_async("echo 2", language="bash")).stdout == "2\n"
    assert (await async_box.interpreter.run_code_async("print(3)", timeout=60)).results == 3


@calls(Commands.run, Commands.list, Commands.connect, Commands.wait, Commands.kill)
def test_a_background_command_is_followed_waited_for_and_killed(box: Any) -> None:
    assert box.commands.list().data == []
    ran = box.commands.run("echo $WORD; echo wrong >&2; pwd; sleep 1; exit 5", {"WORD": "begun"}, "/tmp", 0).data
    assert (ran.success, ran.command.startswith("echo $WORD")) == (True, True)
    heard = Heard()
    box.commands.connect(ran.pid, **heard.handlers())
    assert (heard.stdout, heard.stderr) == ("begun\n/tmp\n", "wrong\n")
    assert ([told["exitCode"] for told in heard.exits], heard.errors) == ([5], [])
    waited = box.commands.wait(ran.pid).data
    assert (waited.success, waited.exit_code) == (True, 5)

    forever = box.commands.run("sleep 1000").data
    (running,) = [each for each in box.commands.list().data if each.running]
    assert (running.pid, running.command, running.exit_code) == (forever.pid, "sleep 1000", None)
    assert running.start_time is not None
    assert box.commands.kill(forever.pid).data.success
    assert box.commands.wait(forever.pid).data.exit_code != 0
    box.exec("true")
    assert "true" not in [each.command for each in box.commands.list().data]


def test_who_connects_late_hears_everything(box: Any) -> None:
    ran = box.commands.run("seq 1 300000").data
    assert box.commands.wait(ran.pid).data.exit_code == 0
    heard = Heard()
    box.commands.connect(ran.pid, **heard.handlers())
    assert heard.stdout == "".join(f"{number}\n" for number in range(1, 300_001))
    assert heard.stderr == ""


@calls(Commands.run_async, Commands.list_async, Commands.kill_async, Commands.wait_async)
async def test_background_commands_without_blocking(async_box: Any) -> None:
    commands = async_box.commands
    ran = (await commands.run_async("sleep 1000")).data
    assert ran.pid in [each.pid for each in (await commands.list_async()).data]
    assert (await commands.kill_async(ran.pid)).data.success
    assert (await commands.wait_async(ran.pid)).data.exit_code != 0
