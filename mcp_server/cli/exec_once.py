"""`casemate exec`: run one program in a machine of its own, and exit with its status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runs.engine.machine import MachineError

from .console import CliError, note, run, write_raw
from .forms import Form, reported
from .options import target_of
from .run_machine import WORKSPACE, network, open_machine
from .target import open_remote

if TYPE_CHECKING:
    from runs.engine.machine import Ended


def exec_once(
    context: typer.Context,
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="The program.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="Its arguments.")] = None,
) -> None:
    """Run one program in a new machine that reaches the internet, delete the machine, and exit with its status.

    To run commands in a sandbox that stays, use casemate sandbox exec.
    """
    with reported(Form.HUMAN):

        async def work() -> Ended:
            async with (
                open_remote(target_of(context)) as remote,
                open_machine(remote, "exec", {"network": network(True)}, cwd=WORKSPACE) as machine,
            ):
                try:
                    return await machine.run([program, *(arguments or ())], stdin=b"", timeout_s=0, sink=write_raw)
                except MachineError as error:
                    raise CliError(str(error)) from None

        ended = run(work)
        if ended.reason:
            note(f"casemate: {ended.reason}")
    raise typer.Exit(ended.exit_code)
