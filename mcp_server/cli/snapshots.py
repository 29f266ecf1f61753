"""`casemate snapshot` and `casemate fork`: save and restore the state of sandboxes, and copy running ones."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import CliError, note, plain, print_errors, run, show_json, show_table
from .errors import Missing
from .options import AsJson, Ref, SnapshotRef, complete_sandbox, complete_snapshot, target_of
from .records import show_records
from .remote import route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, check_ref, moment, parse_pairs

app = typer.Typer(help="Snapshots of sandboxes.", no_args_is_help=True)

_LONG_S = 900
_MOST = 100
_COLUMNS = {
    "id": "id",
    "name": "name",
    "sandbox": "sandboxName",
    "parent": "parentId",
    "image": "image",
    "cpu": "cpu",
    "mem MiB": "mem",
    "size": "sizeBytes",
    "created": "createdAt",
}


@app.command()
def create(
    context: typer.Context,
    ref: Ref,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name, such as before-upgrade; default: generated.")
    ] = "",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="Label; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Save the state of a sandbox: files, memory and programs. The sandbox stays running or asleep."""
    check_ref(ref)
    body: Object = {"name": name, "labels": parse_pairs(label, "--label")}

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            path = route("sandboxes", ref, "snapshots")
            return as_object(await remote.data("POST", path, body=body, read_s=_LONG_S))

    made = run(work)
    if as_json:
        show_json(made)
    else:
        typer.echo(cell(made.get("id")))
        note(f"Created snapshot {cell(made.get('name'))} of {cell(made.get('sandboxName'))}.")


@app.command("ls", hidden=True)
@app.command("list")
def list_all(
    context: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(metavar="[SANDBOX]", help="Only snapshots of this sandbox.", autocompletion=complete_sandbox),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List snapshots, newest first."""
    if ref:
        check_ref(ref)

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return await remote.snapshots(ref)

    show_records(run(work), _COLUMNS, as_json=as_json, nothing="No snapshots.")


@app.command("show", hidden=True)
@app.command()
def get(context: typer.Context, snapshot: SnapshotRef, as_json: AsJson = False) -> None:
    """Show one snapshot."""
    check_ref(snapshot, "snapshot")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("GET", route("snapshots", snapshot)))

    _show(run(work), as_json=as_json)


@app.command()
def rename(
    context: typer.Context,
    snapshot: SnapshotRef,
    name: Annotated[str, typer.Argument(metavar="NAME", help="New name.")],
    as_json: AsJson = False,
) -> None:
    """Rename a snapshot."""
    check_ref(snapshot, "snapshot")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("PATCH", route("snapshots", snapshot), body={"name": name}))

    _show(run(work), as_json=as_json)


@app.command()
def restore(context: typer.Context, ref: Ref, snapshot: SnapshotRef, as_json: AsJson = False) -> None:
    """Restore a sandbox to a snapshot. All later changes are lost."""
    check_ref(ref)
    check_ref(snapshot, "snapshot")

    async def work() -> tuple[Object, Object]:
        async with open_remote(target_of(context)) as remote:
            kept = as_object(await remote.data("GET", route("snapshots", snapshot)))
            body: Object = {"snapshot": kept.get("id")}
            path = route("sandboxes", ref, "restore")
            return kept, as_object(await remote.data("POST", path, body=body, read_s=_LONG_S))

    kept, sandbox = run(work)
    if as_json:
        show_json(sandbox)
    else:
        when = moment(kept.get("createdAt"))
        note(f"Restored {ref} to {cell(kept.get('name'))} from {when} UTC; all later changes are lost.")


@app.command()
def rm(
    context: typer.Context,
    snapshots: Annotated[
        list[str],
        typer.Argument(
            metavar="SNAPSHOT...", help="Names, ids or id prefixes of snapshots.", autocompletion=complete_snapshot
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Delete snapshots. A snapshot that other snapshots or sandboxes are based on cannot be deleted."""
    for snapshot in snapshots:
        check_ref(snapshot, "snapshot")
    missing: list[str] = []

    async def work() -> list[str]:
        async with open_remote(target_of(context)) as remote:
            deleted: list[str] = []
            for snapshot in snapshots:
                try:
                    await remote.call("DELETE", route("snapshots", snapshot))
                    deleted.append(snapshot)
                except Missing as error:
                    missing.append(str(error))
            return deleted

    deleted = run(work)
    if as_json:
        show_json({"deleted": deleted})
    elif deleted:
        note(f"Deleted {len(deleted)} snapshot{'' if len(deleted) == 1 else 's'}.")
    if missing:
        print_errors(*missing)
        raise typer.Exit(2)


def fork(
    context: typer.Context,
    ref: Ref,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=_MOST, help="Number of copies.")] = 1,
    volumes: Annotated[
        bool, typer.Option("--volumes/--no-volumes", help="Whether the copies get copies of its volumes.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Copy a running sandbox and print the ids of the copies, which continue from its current state."""
    check_ref(ref)

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            path = route("sandboxes", ref, "fork")
            body: Object = {"count": count, "volumes": "copy" if volumes else "none"}
            return as_objects(await remote.data("POST", path, body=body, read_s=_LONG_S))

    children = run(work)
    failed = [child for child in children if "error" in child]
    if as_json:
        show_json(children)
    else:
        for child in children:
            if child not in failed:
                typer.echo(f"{cell(child.get('id'))}  {plain(cell(child.get('name')))}")
    if failed:
        reasons = {f"{cell(child.get('error'))}: {cell(child.get('hint'))}" for child in failed}
        raise CliError(f"{len(failed)} of {len(children)} copies failed. {'; '.join(sorted(reasons))}")


def _show(snapshot: Object, *, as_json: bool) -> None:
    if as_json:
        show_json(snapshot)
    else:
        show_table([(name, cell(value)) for name, value in snapshot.items()])
