"""`casemate sandbox exec`: run a command in a sandbox, with its output as it comes and its status as this one's."""

from __future__ import annotations

import shlex
from typing import Annotated

import anyio
import typer

from .console import CliError, note, run, show_json, write_raw
from .feeding import feed_input
from .following import BINARY, Ended, follow
from .options import AsJson, Ref, place_of
from .remote import Remote, route
from .target import open_remote
from .values import Object, as_object, check_ref, parse_environment

_SLACK_S = 30
_MOST_S = 86_400


def execute(
    context: typer.Context,
    ref: Ref,
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="Program and arguments, after two dashes.")
    ],
    cwd: Annotated[str, typer.Option("--cwd", metavar="DIR", help="Where to run it; default: the user's home.")] = "",
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="K=V", help="A variable; K alone hands on the one here."),
    ] = None,
    timeout: Annotated[
        int, typer.Option("--timeout", metavar="SECONDS", min=1, max=_MOST_S, help="It is killed then; default: a day.")
    ] = _MOST_S,
    stdin: Annotated[bool, typer.Option("-i", "--stdin", help="It reads what comes in here, up to its end.")] = False,
    shell: Annotated[bool, typer.Option("--shell", help="The command is one line for the sandbox's shell.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a command in a sandbox and end with its exit status, or with 2 in trouble.

    Its output comes as it is printed. With -i it reads standard input; else it has none. An interrupt ends it.
    """
    check_ref(ref)
    if shell and len(command) != 1:
        raise CliError(f"--shell takes one line, and here are {len(command)} words: quote the line")
    wish: Object = {"command": command[0] if shell else shlex.join(command), "timeout": timeout}
    if cwd:
        wish["cwd"] = cwd
    if env:
        wish["env"] = parse_environment(env)

    async def work() -> int:
        async with open_remote(place_of(context)) as remote:
            if stdin:
                return await _fed(remote, ref, wish, as_json=as_json)
            return await (_captured if as_json else _live)(remote, ref, wish)

    raise typer.Exit(run(work))


async def _live(remote: Remote, ref: str, wish: Object) -> int:
    async with remote.events(route("sandboxes", ref, "exec-stream"), wish | BINARY) as output:
        return _status(remote, await follow(output, write_raw))


async def _fed(remote: Remote, ref: str, wish: Object, *, as_json: bool) -> int:
    """As `_live`, with what comes in here for its input."""
    kept = {"stdout": bytearray(), "stderr": bytearray()}

    async def keep(name: str, data: bytes) -> None:
        kept[name] += data

    ended: Ended | None = None
    failures: list[Exception] = []
    async with (
        remote.events(route("sandboxes", ref, "exec-stream"), wish | BINARY | {"openStdin": True}) as output,
        anyio.create_task_group() as tasks,
    ):

        async def feed(pid: int) -> None:
            try:
                await feed_input(remote, ref, pid)
            except CliError as trouble:
                failures.append(trouble)
                tasks.cancel_scope.cancel()

        def started(pid: int) -> None:
            tasks.start_soon(feed, pid)

        try:
            ended = await follow(output, keep if as_json else write_raw, started)
        except (CliError, typer.Exit) as error:  # Raised again outside of the group that would wrap it.
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
    code = _status(remote, ended)
    if as_json:
        show_json({name: data.decode("utf-8", "replace") for name, data in kept.items()} | {"exitCode": code})
    return code


def _status(remote: Remote, ended: Ended | None) -> int:
    if ended is None:
        raise CliError(
            f"{remote.url} ended the output before the command's status came: whether it goes on is not known"
        )
    if ended.reason:
        note(f"casemate: {ended.reason}")
    return ended.exit_code


async def _captured(remote: Remote, ref: str, wish: Object) -> int:
    done = as_object(
        await remote.data("POST", route("sandboxes", ref, "exec"), body=wish, read_s=wish["timeout"] + _SLACK_S)
    )
    exit_code = done.get("exitCode")
    show_json({"stdout": "", "stderr": "", **done})
    if not isinstance(exit_code, int):
        raise CliError(f"{remote.url} said nothing of the command's status")
    return exit_code
