"""`casemate key`: create, list and revoke API keys, and print the path of the local key."""

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
from .values import Object, as_object, as_objects, cell, parse_duration

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
    """Print the path of the local key's file. The key itself is not printed, to keep it out of terminal history."""
    file = Settings.load().key_file
    if not file.exists():
        raise CliError(f"There is no key at {file} yet: casemate serve creates it on its first start")
    if as_json:
        show_json({"path": str(file)})
    else:
        out.print(str(file), markup=False)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")],
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="Scope of the key; repeatable; default: all of yours.")
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="DURATION", help="Lifetime, such as 12h or 30d; default: never.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Create an API key and print it; it is shown only once."""
    body: Object = {"keyName": name}
    if scope:
        body["scopes"] = [str(one) for one in scope]
    if expires:
        body["expiresInSeconds"] = parse_duration(expires, "--expires")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.call("POST", route("orgs", "apikeys"), body=body))

    made = run(work)
    if as_json:
        show_json(made)
        return
    typer.echo(cell(made.get("plainKey")))
    note(f"Created key {cell(made.get('keyId'))}. It is shown only once: store it where only its user can read it.")


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
    ref: Annotated[str, typer.Argument(metavar="ID|NAME", help="Id or name of the key.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key, immediately and permanently."""

    async def work() -> str:
        async with open_remote(target_of(context)) as remote:
            key_id = _id_of(ref, await _keys(remote))
            await remote.call("DELETE", route("orgs", "apikeys", key_id))
            return key_id

    revoked = run(work)
    if as_json:
        show_json({"revoked": revoked})
    else:
        note(f"Revoked key {revoked}.")


async def _keys(remote: Remote) -> list[Object]:
    return as_objects(await remote.call("GET", route("orgs", "apikeys")))


def _id_of(ref: str, keys: list[Object]) -> str:
    matches = [cell(key.get("id")) for key in keys if key.get("id") == ref]
    matches = matches or [cell(key.get("id")) for key in keys if key.get("name") == ref]
    if not matches:
        raise CliError(f"There is no key {ref[:80]!r}: list keys with casemate key list")
    if len(matches) > 1:
        raise CliError(f"The name {ref[:80]!r} matches several keys, {', '.join(matches)}: give one of these ids")
    return matches[0]
