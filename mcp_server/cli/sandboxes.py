"""`casemate sandbox`: list and end the local owner's sandboxes, through the running server or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mcp_server.settings import Settings

from .console import Trouble, err, run, show_table
from .desk import open_desk

if TYPE_CHECKING:
    from .desk import Row

app = typer.Typer(help="Sandboxes of the local key's owner.", no_args_is_help=True)


@app.command("list")
def list_all() -> None:
    """List the sandboxes."""
    settings = Settings.load()

    async def work() -> list[Row]:
        async with open_desk(settings) as desk:
            return await desk.rows()

    rows = run(work)
    if not rows:
        err.print("There is no sandbox.")
        return
    lines = [(row.id, row.name, row.status, row.image, str(row.cpu), str(row.mem), row.created) for row in rows]
    show_table([("id", "name", "status", "image", "cpu", "mem MiB", "created"), *lines])


@app.command()
def rm(
    refs: Annotated[list[str] | None, typer.Argument(metavar="[ID|NAME]...", help="Sandboxes to end.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="End all of them.")] = False,
) -> None:
    """End sandboxes and delete everything in them."""
    if bool(refs) == everything:
        raise Trouble("Name the sandboxes to end, or say --all")
    settings = Settings.load()

    async def work() -> int:
        async with open_desk(settings) as desk:
            doomed = [row.id for row in await desk.rows()] if everything else list(refs or ())
            for ref in doomed:
                await desk.remove(ref)
            return len(doomed)

    count = run(work)
    err.print(f"Ended {count} sandbox{'' if count == 1 else 'es'}.")
