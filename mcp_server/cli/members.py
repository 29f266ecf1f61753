"""`casemate member`: list, add and remove the members of an organisation."""

from __future__ import annotations

from typing import Annotated

import typer

from auth.roles import Role

from .console import CliError, note, run, show_json
from .options import AsJson, target_of
from .records import show_records
from .remote import Remote, route
from .target import open_remote
from .values import Object, as_objects, cell

app = typer.Typer(help="Members of your organisation.", no_args_is_help=True)

_COLUMNS = {"id": "id", "name": "name", "email": "email", "role": "role", "created": "createdAt"}


@app.command("list")
def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List the members of your organisation."""

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return await _members(remote)

    show_records(run(work), _COLUMNS, as_json=as_json)


@app.command()
def add(
    context: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Address of a registered user.")],
    role: Annotated[Role, typer.Option("--role", help="Role of the member.")] = Role.MEMBER,
    as_json: AsJson = False,
) -> None:
    """Add a registered user to your organisation."""

    async def work() -> object:
        async with open_remote(target_of(context)) as remote:
            return await remote.data("POST", route("orgs", "users"), body={"email": email, "role": str(role)})

    made = run(work)
    if as_json:
        show_json(made)
    else:
        note(f"Added {email} to the organisation as {role}.")


@app.command()
def remove(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="EMAIL|ID", help="Address or id of the member.")],
    as_json: AsJson = False,
) -> None:
    """Remove a member from your organisation. The keys that they created for it stop working."""

    async def work() -> str:
        async with open_remote(target_of(context)) as remote:
            user_id = _id_of(ref, await _members(remote))
            await remote.call("DELETE", route("orgs", "users", user_id))
            return user_id

    removed = run(work)
    if as_json:
        show_json({"removed": removed})
    else:
        note(f"Removed {ref} from the organisation.")


async def _members(remote: Remote) -> list[Object]:
    return as_objects(await remote.data("GET", route("orgs", "users")))


def _id_of(ref: str, found: list[Object]) -> str:
    for member in found:
        if ref == member.get("id") or ref.lower() == str(member.get("email")).lower():
            return cell(member.get("id"))
    raise CliError(f"There is no member {ref[:80]!r}: list members with casemate member list")
