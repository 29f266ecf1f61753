"""The options that many commands share, and what stands before every command: which server, with which key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
import typer

from .place import URL, Place, open_running
from .values import cell

_COMPLETION_S = 1

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


def place_of(context: typer.Context) -> Place:
    """Which server the person at the keyboard means."""
    given = context.find_root().params
    return Place(url=given.get("url") or "", key_file=given.get("key_file"))


def complete_sandbox(context: typer.Context, incomplete: str) -> list[str]:
    """Names of sandboxes that begin so, from a server that runs; none if it does not answer at once."""

    async def ask() -> list[str]:
        names: list[str] = []
        with anyio.move_on_after(_COMPLETION_S):
            async with open_running(place_of(context)) as remote:
                if remote is not None:
                    names = [cell(sandbox.get("name")) for sandbox in await remote.sandboxes()]
        return names

    try:
        names = anyio.run(ask)
    except Exception:
        # Whatever it is: nothing may be written into the line that is being typed.
        return []
    return sorted({name for name in names if name.startswith(incomplete)})


Ref = Annotated[str, typer.Argument(metavar="REF", help="Id or name of a sandbox.", autocompletion=complete_sandbox)]
