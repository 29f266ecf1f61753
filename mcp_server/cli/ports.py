"""`casemate port`: publish, list and revoke ports of a sandbox."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import note, run, show_json
from .options import AsJson, Ref, target_of
from .records import show_records
from .remote import route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, check_ref, parse_duration

app = typer.Typer(help="Published ports.", no_args_is_help=True)

Port = Annotated[int, typer.Argument(metavar="PORT", help="TCP port of a server in the sandbox.")]

_COLUMNS = {"port": "port", "public": "public", "expires": "expiresAt", "url": "url"}


@app.command()
def publish(
    context: typer.Context,
    ref: Ref,
    port: Port,
    public: Annotated[bool, typer.Option("--public", help="Let everybody open it, without a signed URL.")] = False,
    expires: Annotated[
        str,
        typer.Option(
            "--expires", metavar="DURATION", help="Lifetime of the URL; default: 1d, and for a public port no end."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Publish a port and print a URL that opens it in a browser; for a private port, the URL has a signature."""
    check_ref(ref)
    body: Object = {"port": port, "public": public}
    if expires:
        body["expires"] = parse_duration(expires, "--expires")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("POST", route("sandboxes", ref, "ports"), body=body))

    made = run(work)
    if as_json:
        show_json(made)
    else:
        typer.echo(cell(made.get("url")))


@app.command("list")
def list_all(context: typer.Context, ref: Ref, as_json: AsJson = False) -> None:
    """List the published ports of a sandbox; the URLs have no signatures."""
    check_ref(ref)

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return as_objects(await remote.data("GET", route("sandboxes", ref, "ports")))

    show_records(run(work), _COLUMNS, as_json=as_json, nothing="No published ports.")


@app.command()
def revoke(context: typer.Context, ref: Ref, port: Port, as_json: AsJson = False) -> None:
    """Publish a port no longer: its URLs stop working, and its connections end."""
    check_ref(ref)

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            await remote.call("DELETE", route("sandboxes", ref, "ports", str(port)))

    run(work)
    if as_json:
        show_json({"revoked": port})
    else:
        note(f"Port {port} is no longer published.")
