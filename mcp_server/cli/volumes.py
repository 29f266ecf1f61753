"""`casemate volume`: create, list, copy and delete volumes, attach them to sandboxes and detach them."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from .console import note, run, show_json, show_table
from .options import AsJson, Ref, VolumeRef, complete_sandbox, target_of
from .records import show_records
from .remote import route
from .target import open_remote
from .values import Object, as_object, cell, check_ref

app = typer.Typer(help="Volumes: disks that outlive sandboxes.", no_args_is_help=True)

_LONG_S = 900
_COLUMNS = {"id": "id", "name": "name", "size MiB": "sizeMB", "attached": "attached", "created": "createdAt"}


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, such as my-data.")],
    size: Annotated[int, typer.Option("--size", metavar="MIB", help="Size, 64 to 16384.")] = 1024,
    as_json: AsJson = False,
) -> None:
    """Create an empty volume, which takes as much of the host's disk as it holds."""

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("POST", route("volumes"), body={"name": name, "sizeMB": size}))

    _made(run(work), "Created", as_json=as_json)


@app.command("ls", hidden=True)
@app.command("list")
def list_all(
    context: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(metavar="[SANDBOX]", help="Only volumes of this sandbox.", autocompletion=complete_sandbox),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List volumes by name."""
    if ref:
        check_ref(ref)

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return await remote.volumes(ref)

    found = run(work)
    if not as_json:
        found = [one | {"attached": _attached(one)} for one in found]
    show_records(found, _COLUMNS, as_json=as_json, nothing="No volumes.")


@app.command("get", hidden=True)
@app.command()
def show(context: typer.Context, volume: VolumeRef, as_json: AsJson = False) -> None:
    """Show one volume."""
    check_ref(volume, "volume")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("GET", route("volumes", volume)))

    found = run(work)
    if as_json:
        show_json(found)
    else:
        shown = found | {"attachments": _attached(found) or "-"}
        show_table([(name, cell(value)) for name, value in shown.items()])


@app.command("rm", hidden=True)
@app.command()
def delete(context: typer.Context, volume: VolumeRef, as_json: AsJson = False) -> None:
    """Delete a volume with everything in it. One that a sandbox has cannot be deleted."""
    check_ref(volume, "volume")

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            await remote.call("DELETE", route("volumes", volume))

    run(work)
    if as_json:
        show_json({"deleted": [volume]})
    else:
        note(f"Deleted volume {volume}.")


@app.command()
def snapshot(
    context: typer.Context,
    volume: VolumeRef,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the new volume; default: generated.")] = "",
    as_json: AsJson = False,
) -> None:
    """Copy what a volume holds now to a new volume, even while programs write to it."""
    check_ref(volume, "volume")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            path = route("volumes", volume, "snapshot")
            return as_object(await remote.data("POST", path, body={"name": name}, read_s=_LONG_S))

    _made(run(work), "Created", as_json=as_json)


@app.command()
def attach(
    context: typer.Context,
    volume: VolumeRef,
    ref: Ref,
    path: Annotated[str, typer.Argument(metavar="PATH", help="Directory in the sandbox, such as /data.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="Read-only; several sandboxes may share it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Mount a volume in a sandbox, read-write in one or read-only in several. Wakes the sandbox."""
    check_ref(volume, "volume")
    check_ref(ref)
    body: Object = {"name": volume, "path": path, "readOnly": read_only}

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("POST", route("sandboxes", ref, "volumes"), body=body, read_s=_LONG_S))

    _made(run(work), f"Attached at {path}:", as_json=as_json)


@app.command()
def detach(
    context: typer.Context,
    volume: VolumeRef,
    ref: Ref,
    force: Annotated[
        bool, typer.Option("--force", help="Even if programs use it; what they have not yet written is lost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Unmount a volume and take it out of a sandbox."""
    check_ref(volume, "volume")
    check_ref(ref)

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            path = route("sandboxes", ref, "volumes", volume)
            return as_object(
                await remote.data("DELETE", path, query={"force": "true"} if force else None, read_s=_LONG_S)
            )

    _made(run(work), "Detached", as_json=as_json)


def _made(volume: Object, did: str, *, as_json: bool) -> None:
    if as_json:
        show_json(volume)
    else:
        typer.echo(cell(volume.get("id")))
        note(f"{did} volume {cell(volume.get('name'))}.")


def _attached(volume: Object) -> str:
    """List the sandboxes that have a volume, and where."""
    uses = cast("list[Object]", volume.get("attachments") or [])
    return ", ".join(
        f"{cell(one.get('sandboxId'))}:{cell(one.get('path'))}{':ro' if one.get('readOnly') else ''}" for one in uses
    )
