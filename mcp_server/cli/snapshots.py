"""`casemate snapshot` and `casemate fork`: keep a sandbox's moment, go back to it, make copies that go on from now."""

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

app = typer.Typer(help="Snapshots: whole sandboxes, kept as they were.", no_args_is_help=True)

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
        str, typer.Argument(metavar="[NAME]", help="Such as before-upgrade; default: one is made up.")
    ] = "",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="A label; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a sandbox as it is: files, memory and programs. It runs on, or sleeps on."""
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
        note(f"Kept {cell(made.get('sandboxName'))} as {cell(made.get('name'))}.")


@app.command("ls", hidden=True)
@app.command("list")
def list_all(
    context: typer.Context,
    ref: Annotated[
        str, typer.Argument(metavar="[REF]", help="Only those of this sandbox.", autocompletion=complete_sandbox)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the snapshots, newest first."""
    if ref:
        check_ref(ref)

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return await remote.snapshots(ref)

    show_records(run(work), _COLUMNS, as_json=as_json, nothing="There is no snapshot.")


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
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
    as_json: AsJson = False,
) -> None:
    """Give a snapshot another name."""
    check_ref(snapshot, "snapshot")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("PATCH", route("snapshots", snapshot), body={"name": name}))

    _show(run(work), as_json=as_json)


@app.command()
def restore(context: typer.Context, ref: Ref, snapshot: SnapshotRef, as_json: AsJson = False) -> None:
    """Put a sandbox back to a snapshot. What it did since then is lost."""
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
        note(f"{ref} is as {cell(kept.get('name'))} has it, from {when} UTC; what it did since then is undone.")


@app.command()
def rm(
    context: typer.Context,
    snapshots: Annotated[
        list[str], typer.Argument(metavar="SNAPSHOT...", help="Snapshots.", autocompletion=complete_snapshot)
    ],
    as_json: AsJson = False,
) -> None:
    """Delete snapshots. One from which other snapshots or sandboxes were made is refused."""
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
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=_MOST, help="How many copies.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make copies of a running sandbox that go on from this moment, and print their ids. It runs on itself."""
    check_ref(ref)

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            path = route("sandboxes", ref, "fork")
            return as_objects(await remote.data("POST", path, body={"count": count}, read_s=_LONG_S))

    children = run(work)
    failed = [child for child in children if "error" in child]
    if as_json:
        show_json(children)
    else:
        for child in children:
            if child not in failed:
                typer.echo(f"{cell(child.get('id'))}  {plain(cell(child.get('name')))}")
    if failed:
        why = {f"{cell(child.get('error'))}: {cell(child.get('hint'))}" for child in failed}
        raise CliError(f"{len(failed)} of {len(children)} did not come about. {'; '.join(sorted(why))}")


def _show(snapshot: Object, *, as_json: bool) -> None:
    if as_json:
        show_json(snapshot)
    else:
        show_table([(name, cell(value)) for name, value in snapshot.items()])
