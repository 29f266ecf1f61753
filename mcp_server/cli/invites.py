"""`casemate invite`: one-time codes with which others register; for the operator."""

from __future__ import annotations

from typing import Annotated

import typer

from auth.roles import Role

from .console import note, run, show_json
from .options import AsJson, target_of
from .records import show_records
from .remote import route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, check_ref, moment, parse_span

app = typer.Typer(help="Invitations to register.", no_args_is_help=True)

_COLUMNS = {
    **{name: name for name in ("id", "email", "orgId", "role", "used")},
    "created": "createdAt",
    "expires": "expiresAt",
}


@app.command()
def create(
    context: typer.Context,
    email: Annotated[str, typer.Option("--email", help="Only for this address; default: for anybody.")] = "",
    expires: Annotated[str, typer.Option("--expires", metavar="SPAN", help="Such as 12h or 7d; default: 7d.")] = "",
    org: Annotated[str, typer.Option("--org", metavar="ID", help="To join this one; default: one of their own.")] = "",
    role: Annotated[Role, typer.Option("--role", help="What they may do in the one that they join.")] = Role.MEMBER,
    as_json: AsJson = False,
) -> None:
    """Make an invitation and print its code: now, and never again."""
    body: Object = {}
    if email:
        body["email"] = email
    if org:
        body |= {"orgId": check_ref(org, "organisation"), "role": str(role)}
    if expires:
        body["expiresInSeconds"] = parse_span(expires, "--expires")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("POST", route("operator", "invitations"), body=body))

    made = run(work)
    if as_json:
        show_json(made)
        return
    typer.echo(cell(made.get("code")))
    note(f"It is good for one registration until {moment(made.get('expiresAt'))} UTC, and is shown this once.")


@app.command("list")
def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List the invitations."""

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return as_objects(await remote.data("GET", route("operator", "invitations")))

    show_records(run(work), _COLUMNS, as_json=as_json)


@app.command()
def revoke(
    context: typer.Context,
    invitation: Annotated[str, typer.Argument(metavar="ID", help="The invitation.")],
    as_json: AsJson = False,
) -> None:
    """Revoke an invitation that nobody has used yet."""
    check_ref(invitation, "invitation")

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            await remote.call("DELETE", route("operator", "invitations", invitation))

    run(work)
    if as_json:
        show_json({"revoked": invitation})
    else:
        note(f"Revoked the invitation {invitation}.")
