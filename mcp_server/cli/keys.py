"""`casemate key`: create, list and revoke API keys; where the local one lies."""

from __future__ import annotations

from typing import Annotated

import typer

from auth.roles import Scope
from mcp_server.settings import Settings

from .console import CliError, note, out, run, show_json
from .options import AsJson, target_of
from .records import show_records
from .remote import Remote, route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, parse_span

app = typer.Typer(help="API keys.", no_args_is_help=True)

_COLUMNS = {
    "id": "id",
    "name": "name",
    "key": "maskedKey",
    "scopes": "scopes",
    "active": "isActive",
    "created": "createdAt",
    "last used": "lastUsedAt",
    "expires": "expiresAt",
}


@app.command()
def path(as_json: AsJson = False) -> None:
    """Print the path of the file that holds the local key. The key itself is not printed: terminals remember."""
    file = Settings.load().key_file
    if not file.exists():
        raise CliError(f"There is no key at {file} yet: casemate serve makes one on its first start")
    if as_json:
        show_json({"path": str(file)})
    else:
        out.print(str(file), markup=False)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="What it is good for; repeatable. Default: all you have.")
    ] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="SPAN", help="Such as 12h or 30d; default: never.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it: now, and never again."""
    body: Object = {"keyName": name}
    if scope:
        body["scopes"] = [str(one) for one in scope]
    if expires:
        body["expiresInSeconds"] = parse_span(expires, "--expires")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.call("POST", route("orgs", "apikeys"), body=body))

    made = run(work)
    if as_json:
        show_json(made)
        return
    typer.echo(cell(made.get("plainKey")))
    note(f"This is the key {cell(made.get('keyId'))}. It is shown this once: keep it where only its user can read it.")


@app.command("list")
def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List the organisation's keys."""

    async def work() -> list[Object]:
        async with open_remote(target_of(context)) as remote:
            return await _keys(remote)

    show_records(run(work), _COLUMNS, as_json=as_json)


@app.command()
def revoke(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="ID|NAME", help="The key.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key: it stops working at once, for good."""

    async def work() -> str:
        async with open_remote(target_of(context)) as remote:
            key_id = _id_of(ref, await _keys(remote))
            await remote.call("DELETE", route("orgs", "apikeys", key_id))
            return key_id

    revoked = run(work)
    if as_json:
        show_json({"revoked": revoked})
    else:
        note(f"Revoked the key {revoked}.")


async def _keys(remote: Remote) -> list[Object]:
    return as_objects(await remote.call("GET", route("orgs", "apikeys")))


def _id_of(ref: str, keys: list[Object]) -> str:
    fitting = [cell(key.get("id")) for key in keys if key.get("id") == ref]
    fitting = fitting or [cell(key.get("id")) for key in keys if key.get("name") == ref]
    if not fitting:
        raise CliError(f"There is no key {ref[:80]!r}: casemate key list shows those there are")
    if len(fitting) > 1:
        raise CliError(f"The name {ref[:80]!r} fits several keys, {', '.join(fitting)}: give one of these ids")
    return fitting[0]
