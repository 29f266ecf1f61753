"""`casemate network`: where a sandbox connected to, what to allow it, and the bridge of this host."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_server.settings import Settings
from vmm.network.rules import HostRules, denied_networks
from vmm.network.taps import host, ruleset

from .console import CliError, note, run, show_json, show_table
from .options import AsJson, Ref, target_of
from .remote import Remote, route
from .target import open_remote
from .values import Object, as_object, as_objects, cell, check_ref, moment

if TYPE_CHECKING:
    from vmm.network.taps.settings import TapSettings

app = typer.Typer(help="The network of sandboxes.", no_args_is_help=True)


@app.callback()
def network() -> None:
    """The network of sandboxes."""


@app.command()
def log(
    context: typer.Context,
    ref: Ref,
    following: Annotated[
        bool, typer.Option("-f", "--follow", help="Print further ones until interrupted or the sandbox is deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last connections and lookups of a sandbox, allowed and refused, oldest first.

    With --json and --follow, print one per line.
    """
    check_ref(ref)

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            if following:
                await _follow(remote, ref, as_json=as_json)
                return
            found = as_objects(await remote.data("GET", route("sandboxes", ref, "network", "log")))
            if as_json:
                show_json(found)
            elif found:
                show_table([_row(event) for event in found])
            else:
                note("No connections yet.")

    run(work)


@app.command()
def suggest(context: typer.Context, ref: Ref, as_json: AsJson = False) -> None:
    """Print the smallest policy that would have allowed all that a sandbox was allowed so far.

    Run what the sandbox is for with --network learn first.
    """
    check_ref(ref)

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("GET", route("sandboxes", ref, "network")))

    found = run(work)
    if as_json:
        show_json(found)
        return
    typer.echo(cell(found.get("suggestion")))


@app.command()
def up() -> None:
    """Make the bridge of this host, its rules and forwarding. `casemate serve` does it by itself.

    A no-op if it is there.
    """
    taps = Settings.load().taps
    if not host.status(taps).up:
        host.up(taps, ruleset.tables(taps, denied=denied_networks(HostRules()), ports=ruleset.NOBODY))
    note(f"{taps.bridge} is up with {taps.gateway}.")


@app.command()
def down(
    force: Annotated[
        bool, typer.Option("--force", help="Also if sandboxes run on it, which lose their network.")
    ] = False,
) -> None:
    """Undo what `up` did: the bridge, its rules, and forwarding if it was off before."""
    taps = Settings.load().taps
    running = host.status(taps).taps
    if running and not force:
        raise CliError(f"Machines use {running} taps of {taps.bridge}: put sandboxes to sleep, or use --force")
    host.down(taps)
    note(f"{taps.bridge} is gone.")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the bridge of this host, and what keeps it from working."""
    taps = Settings.load().taps
    found = host.status(taps)
    if as_json:
        show_json(_shown(taps, found))
        return
    show_table(
        [
            ("bridge", taps.bridge),
            ("address", str(taps.gateway)),
            ("state", "up" if found.up else "down"),
            ("taps", str(found.taps)),
            *(("problem", f"{problem.detail}: {problem.fix}") for problem in found.problems),
        ]
    )


def _shown(taps: TapSettings, found: host.Status) -> Object:
    return {
        "bridge": taps.bridge,
        "address": str(taps.gateway),
        "up": found.up,
        "taps": found.taps,
        "problems": [{"detail": problem.detail, "fix": problem.fix} for problem in found.problems],
    }


async def _follow(remote: Remote, ref: str, *, as_json: bool) -> None:
    path = route("sandboxes", ref, "network", "log")
    async with remote.stream("GET", path, query={"follow": "true"}, read_s=None) as response:
        async for line in response.aiter_lines():
            if not line.strip():
                continue
            event = _event(line)
            if as_json:
                show_json(event, lines=True)
            else:
                show_table([_row(event)])
    note(f"{ref} was deleted.")


def _event(line: str) -> Object:
    try:
        return as_object(json.loads(line))
    except ValueError:
        raise CliError("The server sent a line that is not JSON: does it run another version of Casemate?") from None


def _row(event: Object) -> tuple[str, ...]:
    return (
        moment(event.get("time")),
        "allowed" if event.get("allowed") else "refused",
        cell(event.get("protocol")),
        cell(event.get("host")) + (f":{port}" if (port := event.get("port")) else ""),
        cell(event.get("reason") or ""),
    )
