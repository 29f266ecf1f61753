"""`casemate sandbox update`, `sleep`, `wake`, `start` and `restart`: change a sandbox's settings and state."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import CliError, note, run, show_json, show_table
from .options import AsJson, Ref, complete_sandbox, target_of
from .remote import route
from .target import open_remote
from .values import Object, as_object, cell, check_ref, parse_limit, parse_pairs

_LONG_S = 300

Ttl = Annotated[
    str,
    typer.Option(
        "--ttl", metavar="DURATION|none", help="Time to live from now, such as 2h; time asleep does not count."
    ),
]
Idle = Annotated[
    str, typer.Option("--idle", metavar="DURATION|none", help="Idle time before it falls asleep, such as 15m.")
]
Network = Annotated[
    str,
    typer.Option(
        "--network",
        metavar="POLICY",
        help="Where it may connect to: none, internet, packages, learn, default, or a list such as "
        "example.com,*.example.org,198.51.100.0/24,443/tcp.",
    ),
]
Refs = Annotated[
    list[str], typer.Argument(metavar="SANDBOX...", help="Ids or names of sandboxes.", autocompletion=complete_sandbox)
]


def update(
    context: typer.Context,
    ref: Ref,
    name: Annotated[str, typer.Option("--name", help="New name.")] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K=V|none", help="Label; repeatable; replaces all existing labels."),
    ] = None,
    ttl: Ttl = "",
    idle: Idle = "",
    network: Network = "",
    auto_sleep: Annotated[
        bool | None, typer.Option("--auto-sleep/--no-auto-sleep", help="Whether it falls asleep when idle.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a sandbox. Settings that are not given stay unchanged."""
    check_ref(ref)
    body = limits(ttl, idle)
    if name:
        body["name"] = name
    if label:
        body["labels"] = {} if label == ["none"] else parse_pairs(label, "--label")
    if network:
        body["network"] = network
    if auto_sleep is not None:
        body["autoSleep"] = auto_sleep
    if not body:
        raise CliError("Nothing to change: give --name, --label, --ttl, --idle, --network or --auto-sleep")

    async def work() -> Object:
        async with open_remote(target_of(context)) as remote:
            return as_object(await remote.data("PATCH", route("sandboxes", ref), body=body))

    changed = run(work)
    if as_json:
        show_json(changed)
    else:
        show_table([(field, cell(value)) for field, value in changed.items()])


def sleep(context: typer.Context, refs: Refs, as_json: AsJson = False) -> None:
    """Put sandboxes to sleep, memory included. Any call wakes them."""
    _each(context, refs, "sleep", "is asleep", as_json=as_json)


def wake(context: typer.Context, refs: Refs, as_json: AsJson = False) -> None:
    """Wake sandboxes, as any call does."""
    _each(context, refs, "wake", "is awake", as_json=as_json)


def start(context: typer.Context, refs: Refs, as_json: AsJson = False) -> None:
    """Start sandboxes again, including killed ones, and report what was lost."""
    _each(context, refs, "start", "is running", as_json=as_json)


def restart(
    context: typer.Context,
    refs: Refs,
    from_snapshot: Annotated[
        bool, typer.Option("--from-snapshot", help="Restore the newest snapshot instead of booting from disk.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restart sandboxes in any state, including unresponsive ones. Files are kept; programs and memory are lost."""
    _each(context, refs, "restart", "is running", body={"fromSnapshot": from_snapshot}, as_json=as_json)


def limits(ttl: str, idle: str) -> Object:
    """Return the limits that were given, as fields of a request.

    Raises:
        CliError: A limit is not a valid duration.
    """
    given = {"ttl": ttl, "idle": idle}
    return {name: parse_limit(text, f"--{name}") for name, text in given.items() if text}


def _each(
    context: typer.Context, refs: list[str], verb: str, done: str, *, body: Object | None = None, as_json: bool
) -> None:
    for ref in refs:
        check_ref(ref)
    seen: list[Object] = []

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            for ref in refs:
                await remote.call("POST", route("sandboxes", ref, verb), body=body, read_s=_LONG_S)
                seen.append(as_object(await remote.data("GET", route("sandboxes", ref))))
                if not as_json:
                    reason = cell(seen[-1].get("reason") or "")
                    note(f"{ref} {done}." if reason == "-" else f"{ref} {done}: {reason}")

    run(work)
    if as_json:
        show_json(seen)
