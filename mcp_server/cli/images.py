"""`casemate image`: list, build and remove images."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_server.settings import Settings

from .console import err, prepare_directory, run, show_json, show_table
from .options import AsJson
from .progress import shown_progress

if TYPE_CHECKING:
    from vmm.images.catalogue import Catalogue, ImageInfo

    from .values import Object

app = typer.Typer(help="Images for sandboxes.", no_args_is_help=True)

_MIB = 1024 * 1024


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """List all images, whether built or not."""
    found = run(_catalogue(Settings.load()).list)
    if as_json:
        show_json([_as_json(image) for image in found])
        return
    rows = [("name", "built", "MiB", "digest", "holds")]
    for image in found:
        built = datetime.fromtimestamp(image.built_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M") if image.built else "no"
        size = str(image.size // _MIB) if image.size else "-"
        rows.append((image.name, built, size, image.digest[:12] or "-", image.problem or image.description))
    show_table(rows)


@app.command()
def build(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of images; default: all.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild images that exist.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build images; skip those that exist."""
    settings = Settings.load()
    prepare_directory(settings.data)
    catalogue = _catalogue(settings)
    wanted = names or list(catalogue.names())
    for name in wanted:

        async def work(name: str = name) -> None:
            with shown_progress() as progress:
                if force:
                    await catalogue.build(name, force=True, progress=progress)
                else:
                    await catalogue.ensure(name, progress=progress)

        run(work)
        err.print(f"Built image {name}.", markup=False)
    if as_json:
        show_json({"built": wanted})


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of images.")], as_json: AsJson = False
) -> None:
    """Remove images. Existing sandboxes are not affected."""
    catalogue = _catalogue(Settings.load())
    for name in names:

        async def work(name: str = name) -> None:
            await catalogue.remove(name)

        run(work)
        err.print(f"Removed image {name}.", markup=False)
    if as_json:
        show_json({"removed": names})


def _as_json(image: ImageInfo) -> Object:
    return {
        "name": image.name,
        "built": image.built,
        "builtMs": image.built_ms if image.built else None,
        "size": image.size,
        "digest": image.digest,
        "description": image.description,
        "problem": image.problem,
    }


def _catalogue(settings: Settings) -> Catalogue:
    # Imported late: loading the whole server takes longer than most commands run.
    from mcp_server.app import open_catalogue  # noqa: PLC0415

    return open_catalogue(settings)
