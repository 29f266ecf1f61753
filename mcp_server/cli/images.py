"""`casemate image`: list, build and remove the images that sandboxes are made from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from mcp_server.app import open_catalogue
from mcp_server.settings import Settings

from .console import err, prepare_directory, run, show_table
from .progress import shown_progress

app = typer.Typer(help="Images that sandboxes are made from.", no_args_is_help=True)

_MIB = 1024 * 1024


@app.command("list")
def list_all() -> None:
    """List the images, built or not."""
    catalogue = open_catalogue(Settings.load())
    rows = [("name", "built", "MiB", "digest", "holds")]
    for image in run(catalogue.list):
        built = datetime.fromtimestamp(image.built_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if image.built else "no"
        size = str(image.size // _MIB) if image.size else "-"
        rows.append((image.name, built, size, image.digest[:12] or "-", image.problem or image.description))
    show_table(rows)


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
