"""Options and arguments that commands share, and the global options for the server and the key."""

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

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[
    str,
    typer.Option(
        "--url", envvar=URL, metavar="URL", help="URL of the server; default: the server of the data directory."
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="File that holds the API key; default: the key in CASEMATE_API_KEY, or the local key.",
    ),
]
EnvFileOption = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        help="File of further variables, such as .env; those of the environment win.",
    ),
]


def target_of(context: typer.Context) -> Target:
    """Return the target that the global options select."""
    given = context.find_root().params
    return Target(url=given.get("url") or "", key_file=given.get("key_file"))


def complete_sandbox(context: typer.Context, incomplete: str) -> list[str]:
    """Return names of sandboxes with this prefix; none if no server answers in time."""
    return _completed(context, incomplete, Remote.sandboxes)


def complete_snapshot(context: typer.Context, incomplete: str) -> list[str]:
    """Return names of snapshots with this prefix; none if no server answers in time."""
    return _completed(context, incomplete, Remote.snapshots)


def complete_volume(context: typer.Context, incomplete: str) -> list[str]:
    """Return names of volumes with this prefix; none if no server answers in time."""
    return _completed(context, incomplete, Remote.volumes)


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
        # Whatever failed: an error message must not disturb the command line being typed.
        return []
    return sorted({name for name in names if name.startswith(incomplete)})


Ref = Annotated[
    str, typer.Argument(metavar="SANDBOX", help="Id or name of a sandbox.", autocompletion=complete_sandbox)
]
SnapshotRef = Annotated[
    str,
    typer.Argument(metavar="SNAPSHOT", help="Name, id or id prefix of a snapshot.", autocompletion=complete_snapshot),
]
VolumeRef = Annotated[
    str, typer.Argument(metavar="VOLUME", help="Name or id of a volume.", autocompletion=complete_volume)
]
