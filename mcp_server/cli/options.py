"""The options that many commands share, and what stands before every command: which server, with which key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import anyio
import typer

from .remote import Remote
from .target import URL, Target, open_running
from .values import Object, cell

_COMPLETION_S = 5

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
UrlOption = Annotated[
    str,
    typer.Option(
        "--url", envvar=URL, metavar="URL", help="The server; default: the one that works on this data directory."
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="A file that holds the API key; default: the variable CASEMATE_API_KEY, or the local key.",
    ),
]


def target_of(context: typer.Context) -> Target:
    """Which server the person at the keyboard means."""
    given = context.find_root().params
    return Target(url=given.get("url") or "", key_file=given.get("key_file"))


def complete_sandbox(context: typer.Context, incomplete: str) -> list[str]:
    """Names of sandboxes that begin so, from a server that runs; none if it does not answer soon."""
    return _completed(context, incomplete, Remote.sandboxes)


def complete_snapshot(context: typer.Context, incomplete: str) -> list[str]:
    """Names of snapshots that begin so, likewise."""
    return _completed(context, incomplete, Remote.snapshots)


def _completed(
    context: typer.Context, incomplete: str, listed: Callable[[Remote], Awaitable[list[Object]]]
) -> list[str]:
    async def ask() -> list[str]:
        names: list[str] = []
        with anyio.move_on_after(_COMPLETION_S):
            async with open_running(target_of(context)) as remote:
                if remote is not None:
                    names = [cell(one.get("name")) for one in await listed(remote)]
        return names

    try:
        names = anyio.run(ask)
    except Exception:
        # Whatever it is: nothing may be written into the line that is being typed.
        return []
    return sorted({name for name in names if name.startswith(incomplete)})


Ref = Annotated[str, typer.Argument(metavar="REF", help="Id or name of a sandbox.", autocompletion=complete_sandbox)]
SnapshotRef = Annotated[
    str,
    typer.Argument(
        metavar="SNAPSHOT", help="Name or id of a snapshot, or the id's beginning.", autocompletion=complete_snapshot
    ),
]
