"""`casemate quota`: show and set an organisation's quota."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import CliError, run, show_json, show_table
from .options import AsJson, target_of
from .remote import route
from .target import open_remote
from .values import Object, as_object, cell, check_ref

app = typer.Typer(help="Quotas of organisations.", no_args_is_help=True)

_DEFAULT = "default"
_NAMES = {
    "sandboxes": "sandboxes",
    "cpus": "virtual CPUs",
    "mem": "memory MiB",
    "disk": "disk MiB",
    "snapshots": "snapshots",
    "volumes": "volumes",
    "volume_disk": "volumes MiB",
}


@app.command()
def show(
    context: typer.Context,
    org: Annotated[
        str, typer.Argument(metavar="[ORG]", help="Operator only: id of the organisation; default: yours.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show the limits and usage of an organisation."""
    path = route("operator", "quotas", check_ref(org, "organisation")) if org else route("orgs", "quota")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.call("GET", path))

    _show(run(work), as_json=as_json)


@app.command("set")
def set_limits(
    context: typer.Context,
    org: Annotated[str, typer.Argument(metavar="ORG", help="Id of the organisation.")],
    sandboxes: Annotated[str, typer.Option("--sandboxes", metavar="N|default", help="Number of sandboxes.")] = "",
    cpus: Annotated[str, typer.Option("--cpus", metavar="N|default", help="Virtual CPUs in total.")] = "",
    mem: Annotated[str, typer.Option("--mem", metavar="MIB|default", help="Memory in total.")] = "",
    disk: Annotated[str, typer.Option("--disk", metavar="MIB|default", help="Disk in total.")] = "",
    snapshots: Annotated[str, typer.Option("--snapshots", metavar="N|default", help="Number of snapshots.")] = "",
    volumes: Annotated[str, typer.Option("--volumes", metavar="N|default", help="Number of volumes.")] = "",
    volume_disk: Annotated[
        str, typer.Option("--volume-disk", metavar="MIB|default", help="Sizes of the volumes in total.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Set limits of an organisation, or reset them to the default; operator only. Other limits stay unchanged."""
    check_ref(org, "organisation")
    given = {
        "sandboxes": sandboxes,
        "cpus": cpus,
        "mem": mem,
        "disk": disk,
        "snapshots": snapshots,
        "volumes": volumes,
        "volume_disk": volume_disk,
    }
    body: Object = {name: _limit(name, text) for name, text in given.items() if text}
    if not body:
        raise CliError(
            "Nothing to set: give --sandboxes, --cpus, --mem, --disk, --snapshots, --volumes or --volume-disk"
        )

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.call("PATCH", route("operator", "quotas", org), body=body))

    _show(run(work), as_json=as_json)


def _limit(name: str, text: str) -> int | None:
    if text == _DEFAULT:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise CliError(f"--{name.replace('_', '-')} must be a number from 0 or {_DEFAULT}, got {text[:80]!r}")
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
