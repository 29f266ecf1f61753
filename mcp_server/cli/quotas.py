"""`casemate quota`: what an organisation may have at once, and what it has."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import CliError, run, show_json, show_table
from .options import AsJson, target_of
from .remote import route
from .target import open_remote
from .values import Object, as_object, cell, check_ref

app = typer.Typer(help="What an organisation may have at once.", no_args_is_help=True)

_DEFAULT = "default"
_NAMES = {
    "sandboxes": "sandboxes",
    "cpus": "virtual CPUs",
    "mem": "memory MiB",
    "disk": "disk MiB",
    "snapshots": "snapshots",
}


@app.command()
def show(
    context: typer.Context,
    org: Annotated[str, typer.Argument(metavar="[ORG]", help="Its id, for the operator; default: your own.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show limits and use."""
    path = route("operator", "quotas", check_ref(org, "organisation")) if org else route("orgs", "quota")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.call("GET", path))

    _show(run(work), as_json=as_json)


@app.command("set")
def set_limits(
    context: typer.Context,
    org: Annotated[str, typer.Argument(metavar="ORG", help="The organisation's id.")],
    sandboxes: Annotated[str, typer.Option("--sandboxes", metavar="N|default", help="How many sandboxes.")] = "",
    cpus: Annotated[str, typer.Option("--cpus", metavar="N|default", help="Virtual CPUs of all together.")] = "",
    mem: Annotated[str, typer.Option("--mem", metavar="MIB|default", help="Memory of all together.")] = "",
    disk: Annotated[str, typer.Option("--disk", metavar="MIB|default", help="Disk of all together.")] = "",
    snapshots: Annotated[str, typer.Option("--snapshots", metavar="N|default", help="How many snapshots.")] = "",
    as_json: AsJson = False,
) -> None:
    """Set limits of an organisation, or take them back to the default; for the operator. The others stay."""
    check_ref(org, "organisation")
    given = {"sandboxes": sandboxes, "cpus": cpus, "mem": mem, "disk": disk, "snapshots": snapshots}
    body: Object = {name: _limit(name, text) for name, text in given.items() if text}
    if not body:
        raise CliError("There is nothing to set: give --sandboxes, --cpus, --mem, --disk or --snapshots")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.call("PATCH", route("operator", "quotas", org), body=body))

    _show(run(work), as_json=as_json)


def _limit(name: str, text: str) -> int | None:
    if text == _DEFAULT:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise CliError(f"--{name} {text[:80]!r} is no limit: give a number from 0 on, or the word {_DEFAULT}")
    return int(text)


def _show(quota: Object, *, as_json: bool) -> None:
    if as_json:
        show_json(quota)
        return
    limits, own, used = (as_object(quota.get(name) or {}) for name in ("limits", "own", "used"))
    rows = [
        (label, cell(used.get(name)), cell(limits.get(name)), "its own" if own.get(name) is not None else _DEFAULT)
        for name, label in _NAMES.items()
    ]
    show_table([(cell(quota.get("orgId")), "used", "limit", "set by"), *rows])
