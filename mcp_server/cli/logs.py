"""`casemate logs`: show the output of background commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from .console import CliError, note, out, plain, run, show_json, write_raw
from .options import AsJson, Ref, target_of
from .output_stream import BINARY, Ended, Sink, follow
from .remote import Remote, route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, check_ref


def logs(
    context: typer.Context,
    ref: Ref,
    pid: Annotated[
        int | None, typer.Argument(metavar="[PID]", min=1, help="Process id of one command; default: all.")
    ] = None,
    following: Annotated[bool, typer.Option("-f", "--follow", help="Print new output until the command ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the output of background commands, running or ended."""
    check_ref(ref)
    if following and as_json:
        raise CliError("--json and --follow cannot be combined: give one of them")

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            found = await _commands(remote, ref, pid)
            if following:
                await _follow(remote, ref, found)
            elif as_json:
                show_json([await _recorded(remote, ref, command) for command in found])
            else:
                for command in found:
                    if pid is None:
                        _headline(command)
                    await _attach(remote, ref, command, write_raw, to_end=False)

    run(work)


async def _commands(remote: Remote, ref: str, pid: int | None) -> list[Object]:
    answer = as_object(await remote.call("GET", route("sandboxes", ref, "commands", "list")))
    found = as_objects(answer.get("processes") or [])
    if pid is not None:
        found = [command for command in found if command.get("pid") == pid]
        if not found:
            raise CliError(f"There is no background command {pid} in {ref}: list all with casemate logs {ref}")
    elif not found:
        note("No background commands.")
    return found


async def _follow(remote: Remote, ref: str, found: list[Object]) -> None:
    running = [command for command in found if command.get("running")]
    if len(found) > 1 and len(running) != 1:
        pids = ", ".join(cell(command.get("pid")) for command in running or found)
        raise CliError(f"There are several background commands: give one of these PIDs: {pids}")
    for command in found if len(found) == 1 else running:
        ended = await _attach(remote, ref, command, write_raw, to_end=True)
        if ended is None:
            raise CliError(f"{remote.url} closed the output before the command ended: run casemate logs --follow again")
        note(f"Command {cell(command.get('pid'))} ended with status {ended.exit_code}.")


@dataclass(slots=True)
class _Recorder:
    """Collects output."""

    texts: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})

    async def take(self, name: str, data: bytes) -> None:
        self.texts[name] += data


async def _recorded(remote: Remote, ref: str, command: Object) -> Object:
    recorder = _Recorder()
    await _attach(remote, ref, command, recorder.take, to_end=False)
    return {**command, **{name: bytes(data).decode("utf-8", "replace") for name, data in recorder.texts.items()}}


async def _attach(remote: Remote, ref: str, command: Object, sink: Sink, *, to_end: bool) -> Ended | None:
    """Pass a command's output to a sink: what it has printed so far or, with `to_end`, all until it ends."""
    body = {"pid": command.get("pid"), "follow": to_end} | BINARY
    async with remote.events(route("sandboxes", ref, "commands", "attach"), body) as output:
        return await follow(output, sink)


def _headline(command: Object) -> None:
    state = "running" if command.get("running") else f"ended with {cell(command.get('exitCode'))}"
    out.print(plain(f"==> {cell(command.get('pid'))} ({state}): {cell(command.get('command'))} <=="), markup=False)
