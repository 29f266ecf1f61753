"""`casemate sandbox`: list, create, show, use and delete sandboxes."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import CliError, note, print_errors, run, show_json, show_table
from .errors import Missing
from .execute import execute
from .lifecycle import Idle, Network, Ttl, limits, restart, sleep, start, update, wake
from .options import AsJson, Ref, complete_sandbox, complete_snapshot, complete_volume, target_of
from .records import show_records
from .remote import route
from .target import open_remote
from .values import Object, as_object, cell, check_ref, parse_environment, parse_pairs, status_of

app = typer.Typer(help="Sandboxes.", no_args_is_help=True)
app.command("exec")(execute)
app.command("update")(update)
app.command("sleep")(sleep)
app.command("wake")(wake)
app.command("start")(start)
app.command("restart")(restart)

_CREATE_S = 900
_DELETE_S = 120
_COLUMNS = {
    **{name: name for name in ("id", "name", "status", "image", "cpu")},
    "mem MiB": "mem",
    "created": "createdAt",
}


@app.command("list")
def list_all(
    context: typer.Context,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="K=V", help="Only sandboxes with this label; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List sandboxes, newest first."""
    labels = ",".join(f"{name}={value}" for name, value in parse_pairs(label, "--label").items())

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return await remote.sandboxes(labels)

    found = run(work)
    if not as_json:
        found = [{**one, "status": status_of(one)} for one in found]
    show_records(found, _COLUMNS, as_json=as_json, nothing="No sandboxes.")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the sandbox: a host name, such as box or build-1.")
    ],
    image: Annotated[str, typer.Option("--image", help="Image; default: the server's.")] = "",
    cpu: Annotated[int | None, typer.Option("--cpu", min=1, help="Virtual CPUs; default: the server's.")] = None,
    mem: Annotated[int | None, typer.Option("--mem", min=1, help="Memory in MiB; default: the server's.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="K=V", help="Environment variable of all commands; K alone passes its local value."
        ),
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="Label; repeatable.")] = None,
    snapshot: Annotated[
        str,
        typer.Option(
            "--snapshot",
            metavar="SNAPSHOT",
            help="Start from this snapshot, with its image and size.",
            autocompletion=complete_snapshot,
        ),
    ] = "",
    ttl: Ttl = "",
    idle: Idle = "",
    network: Network = "",
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "--volume", metavar="NAME:PATH[:ro]", help="Mount a volume; repeatable.", autocompletion=complete_volume
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a sandbox, wait until it is ready and print its id."""
    given = {
        "image": image,
        "cpu": cpu,
        "mem": mem,
        "envVars": parse_environment(env),
        "labels": parse_pairs(label, "--label"),
        "snapshot": snapshot,
        "network": network,
        "volumes": [_mount(text) for text in volume or ()],
    }
    body: Object = {"name": name, **{field: value for field, value in given.items() if value}}
    body |= limits(ttl, idle)

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            made = as_object(await remote.data("POST", route("sandboxes"), body=body, read_s=_CREATE_S))
            if made.get("status") == "running":
                return made
            # The server creates it in the background; this call waits for it, and fails if that does.
            one = route("sandboxes", str(made.get("id")))
            await remote.data("POST", f"{one}/wake", read_s=_CREATE_S)
            return as_object(await remote.data("GET", one))

    made = run(work)
    if as_json:
        show_json(made)
    else:
        typer.echo(cell(made.get("id")))


def _mount(text: str) -> Object:
    name, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not name or not path or mode not in {"", "ro"}:
        raise CliError(f"--volume must be NAME:PATH or NAME:PATH:ro, such as data:/data, got {text[:80]!r}")
    return {"name": name, "path": path, "readOnly": mode == "ro"}


@app.command()
def get(context: typer.Context, ref: Ref, as_json: AsJson = False) -> None:
    """Show one sandbox."""
    check_ref(ref)

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("GET", route("sandboxes", ref)))

    found = run(work)
    if as_json:
        show_json(found)
    else:
        show_table([(name, cell(value)) for name, value in found.items()])


@app.command()
def rm(
    context: typer.Context,
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SANDBOX]...", help="Ids or names of sandboxes to delete.", autocompletion=complete_sandbox
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all sandboxes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete sandboxes and everything in them."""
    if bool(refs) == everything:
        raise CliError("Give either the sandboxes to delete or --all")
    for ref in refs or ():
        check_ref(ref)

    missing: list[str] = []

    async def work() -> list[str]:
        async with open_remote(target_of(context)) as remote:
            to_delete = [cell(one.get("id")) for one in await remote.sandboxes()] if everything else list(refs or ())
            ended: list[str] = []
            for ref in to_delete:
                try:
                    await remote.call("DELETE", route("sandboxes", ref), read_s=_DELETE_S)
                    ended.append(ref)
                except Missing as error:
                    missing.append(str(error))
            return ended

    ended = run(work)
    if as_json:
        show_json({"ended": ended})
    elif ended or everything:
        note(f"Deleted {len(ended)} sandbox{'' if len(ended) == 1 else 'es'}.")
    if missing and not everything:
        print_errors(*missing)
        raise typer.Exit(2)
