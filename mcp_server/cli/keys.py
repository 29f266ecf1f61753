"""`casemate key`: where the local key lies. The key itself is not printed: terminals and logs remember."""

from __future__ import annotations

import typer

from mcp_server.settings import Settings

from .console import Trouble, out

app = typer.Typer(help="The local API key.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """The local API key."""


@app.command()
def path() -> None:
    """Print the path of the file that holds the local key."""
    file = Settings.load().key_file
    if not file.exists():
        raise Trouble(f"There is no key at {file} yet: casemate serve makes one on its first start")
    out.print(str(file), markup=False)
