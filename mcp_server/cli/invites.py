"""`casemate invite`: manage one-time registration codes; operator only."""

from __future__ import annotations

from typing import Annotated

import typer

from auth.roles import Role

from .console import note, run, show_json
from .options import AsJson, target_of
from .records import show_records
from .remote import route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, check_ref, moment, parse_duration

app = typer.Typer(help="Invitations to register; operator only.", no_args_is_help=True)

_COLUMNS = {
    **{name: name for name in ("id", "email", "orgId", "role", "used")},
    "created": "createdAt",
    "expires": "expiresAt",
}


@app.command()
def create(
    context: typer.Context,
    email: Annotated[str, typer.Option("--email", help="Valid only for this address; default: any.")] = "",
    expires: Annotated[
        str, typer.Option("--expires", metavar="DURATION", help="Lifetime, such as 12h or 7d; default: 7d.")
    ] = "",
    org: Annotated[str, typer.Option("--org", metavar="ID", help="Organisation to join; default: a new one.")] = "",
    role: Annotated[Role, typer.Option("--role", help="Role in that organisation.")] = Role.MEMBER,
    as_json: AsJson = False,
) -> None:
    """Create an invitation and print its code, which is shown only once."""
    body: Object = {}
    if email:
        body["email"] = email
    if org:
        body |= {"orgId": check_ref(org, "organisation"), "role": str(role)}
    if expires:
        body["expiresInSeconds"] = parse_duration(expires, "--expires")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("POST", route("operator", "invitations"), body=body))

    made = run(work)
    if as_json:
        show_json(made)
        return
    typer.echo(cell(made.get("code")))
    note(f"Valid for one registration until {moment(made.get('expiresAt'))} UTC. The code is shown only once.")


@app.command("list")
def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List invitations."""

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return as_objects(await remote.data("GET", route("operator", "invitations")))

    show_records(run(work), _COLUMNS, as_json=as_json)


@app.command()
def revoke(
    context: typer.Context,
    invitation: Annotated[str, typer.Argument(metavar="ID", help="Id of the invitation.")],
    as_json: AsJson = False,
) -> None:
    """Revoke an unused invitation."""
    check_ref(invitation, "invitation")

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            await remote.call("DELETE", route("operator", "invitations", invitation))

    run(work)
    if as_json:
        show_json({"revoked": invitation})
    else:
        note(f"Revoked invitation {invitation}.")
