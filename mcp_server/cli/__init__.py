"""The command line: `casemate serve`, `doctor`, `image`, `sandbox`, `key`.

Each command is a thin face over the composition root or over a running server. What can go wrong for the person at
the keyboard ends in one line that says the way out, and exit status 2; never in a traceback.
"""

from __future__ import annotations

import sys
from typing import cast

import typer

from auth.errors import AuthError
from mcp_server import logs
from mcp_server.occupancy import Occupied
from mcp_server.serve import PortRefused
from mcp_server.settings import SettingsRefused
from storage.errors import StoreError
from vmm.errors import CasemateError

from . import config, doctor, images, keys, sandboxes, serve
from .console import Trouble, complain

app = typer.Typer(
    name="casemate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.add_typer(images.app, name="image")
app.add_typer(sandboxes.app, name="sandbox")
app.add_typer(keys.app, name="key")
app.add_typer(config.app, name="config")


@app.callback()
def casemate() -> None:
    """MicroVM sandboxes for AI agents, offered as MCP tools."""
    logs.configure("warning", "auto")


_TROUBLES = (Trouble, SettingsRefused, Occupied, PortRefused, CasemateError, StoreError, AuthError)


def main() -> None:
    """The entry point of `casemate`."""
    try:
        app()
    except _TROUBLES as trouble:
        complain(str(trouble))
    except BaseExceptionGroup as group:
        known, others = group.split(_TROUBLES)
        if known is None or others is not None:
            raise
        complain(*_messages(cast("BaseExceptionGroup[BaseException]", known)))
    sys.exit(2)


def _messages(group: BaseExceptionGroup[BaseException]) -> list[str]:
    lines: list[str] = []
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            lines += _messages(cast("BaseExceptionGroup[BaseException]", member))
        else:
            lines.append(str(member))
    return lines
