"""`casemate image`: list, build and remove the images that sandboxes are made from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from mcp_server.app import open_catalogue
from mcp_server.settings import Settings

from .console import err, out, prepare_directory, run
from .progress import shown_progress

app = typer.Typer(help="Images that sandboxes are made from.", no_args_is_help=True)

_MIB = 1024 * 1024


@app.command("list")
def list_all() -> None:
    """List the images, built or not."""
    catalogue = open_catalogue(Settings.load())
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "built", "MiB", "digest", "holds"):
        table.add_column(heading, no_wrap=heading != "holds")
    for image in run(catalogue.list):
        built = datetime.fromtimestamp(image.built_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if image.built else "no"
        size = str(image.size // _MIB) if image.size else "-"
        table.add_row(image.name, built, size, image.digest[:12] or "-", image.problem or image.description)
    out.print(table)


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build anew what is there already.")] = False,
) -> None:
    """Build images; those that are there already are left alone."""
    settings = Settings.load()
    prepare_directory(settings.data)
    catalogue = open_catalogue(settings)
    for name in names or catalogue.names():

        async def work(name: str = name) -> None:
            with shown_progress() as progress:
                if force:
                    await catalogue.build(name, force=True, progress=progress)
                else:
                    await catalogue.ensure(name, progress=progress)

        run(work)
        err.print(f"The image {name} is built.", markup=False)


@app.command()
def rm(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Images to remove.")]) -> None:
    """Remove images. Sandboxes that exist keep what they have."""
    catalogue = open_catalogue(Settings.load())
    for name in names:

        async def work(name: str = name) -> None:
            await catalogue.remove(name)

        run(work)
        err.print(f"The image {name} is removed.", markup=False)
