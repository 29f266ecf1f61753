"""`casemate sandbox exec`: run a command in a sandbox, stream its output and exit with its status."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from .console import CliError, note, run, show_json, write_raw
from .fed_command import follow_fed
from .options import AsJson, Ref, target_of
from .output_stream import BINARY, Ended, follow
from .remote import Remote, route
from .stdin import send_stdin
from .target import open_remote
from .values import Object, as_object, check_ref, parse_environment

_SLACK_S = 30
_MOST_S = 86_400


def execute(
    context: typer.Context,
    ref: Ref,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="Program and arguments, after --.")],
    cwd: Annotated[str, typer.Option("--cwd", metavar="DIR", help="Working directory; default: the user's home.")] = "",
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="K=V", help="Environment variable; K alone passes its local value."),
    ] = None,
    timeout: Annotated[
        int,
        typer.Option(
            "--timeout", metavar="SECONDS", min=1, max=_MOST_S, help="Kill the command after this time; default: 1 day."
        ),
    ] = _MOST_S,
    stdin: Annotated[bool, typer.Option("-i", "--stdin", help="Pass standard input to the command.")] = False,
    shell: Annotated[bool, typer.Option("--shell", help="Run COMMAND as one line in the sandbox's shell.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a command in a sandbox and exit with its status, or with 2 on an error of casemate.

    Output is streamed. With -i, the command reads standard input; without, its input is empty. Ctrl-C ends it.
    """
    check_ref(ref)
    if shell and len(command) != 1:
        raise CliError(f"--shell takes one argument, got {len(command)}: quote the line")
    body: Object = {"command": command[0] if shell else shlex.join(command), "timeout": timeout}
    if cwd:
        body["cwd"] = cwd
    if env:
        body["env"] = parse_environment(env)

    async def work() -> int:
        async with open_remote(target_of(context)) as remote:
            if stdin:
                return await _with_stdin(remote, ref, body, as_json=as_json)
            return await (_captured if as_json else _streamed)(remote, ref, body)

    raise typer.Exit(run(work))


async def _streamed(remote: Remote, ref: str, body: Object) -> int:
    async with remote.events(route("sandboxes", ref, "exec-stream"), body | BINARY) as output:
        return _status(remote, await follow(output, write_raw))


async def _with_stdin(remote: Remote, ref: str, body: Object, *, as_json: bool) -> int:
    """Run a command that reads this process's standard input."""
    kept = {"stdout": bytearray(), "stderr": bytearray()}

    async def keep(name: str, data: bytes) -> None:
        kept[name] += data

    ended = await follow_fed(
        remote, ref, body, keep if as_json else write_raw, lambda pid: send_stdin(remote, ref, pid)
    )
    code = _status(remote, ended)
    if as_json:
        show_json({name: data.decode("utf-8", "replace") for name, data in kept.items()} | {"exitCode": code})
    return code


def _status(remote: Remote, ended: Ended | None) -> int:
    if ended is None:
        raise CliError(
            f"{remote.url} closed the output before it sent the command's exit status: the command may still be running"
        )
    if ended.reason:
        note(f"casemate: {ended.reason}")
    for line in ended.network.splitlines():
        note(line)
    return ended.exit_code


async def _captured(remote: Remote, ref: str, body: Object) -> int:
    result = as_object(
        await remote.data("POST", route("sandboxes", ref, "exec"), body=body, read_s=body["timeout"] + _SLACK_S)
    )
    exit_code = result.get("exitCode")
    show_json({"stdout": "", "stderr": "", **result})
    if not isinstance(exit_code, int):
        raise CliError(f"{remote.url} sent no exit status for the command")
    return exit_code
