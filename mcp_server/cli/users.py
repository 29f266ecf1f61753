"""`casemate user`: show the current user and list all users."""

from __future__ import annotations

import typer

from .console import run, show_json, show_table
from .options import AsJson, target_of
from .records import show_records
from .remote import Query, route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, moment

app = typer.Typer(help="Users.", no_args_is_help=True)

_PAGE = 1000
_COLUMNS = {"id": "id", "name": "name", "email": "email", "operator": "operator", "created": "createdAt"}


@app.command("list")
def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List all users; operator only."""

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            found: list[Object] = []
            while True:
                query: Query = {"limit": _PAGE} | ({"after": cell(found[-1].get("id"))} if found else {})
                page = as_objects(await remote.data("GET", route("operator", "users"), query=query))
                found += page
                if len(page) < _PAGE:
                    return found

    show_records(run(work), _COLUMNS, as_json=as_json)


@app.command()
def me(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the user that your key belongs to."""

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.call("GET", route("users", "me")))

    found = run(work)
    if as_json:
        show_json(found)
        return
    organisations = [f"{cell(org.get('name'))} ({cell(org.get('id'))})" for org in as_objects(found.get("orgs") or [])]
    shown = {**found, "orgs": organisations, "createdAt": moment(found.get("createdAt"))}
    show_table([(name, cell(value)) for name, value in shown.items()])
