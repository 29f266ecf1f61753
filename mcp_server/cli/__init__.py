"""The command line: `casemate`. Its commands work on a server over REST, but for those that are the server's own.

`serve`, `doctor`, `image`, `config` and `store` work on this machine. What can go wrong for the person at the keyboard
ends in one line that says the way out, and exit status 2, or 75 where the same may work a little later; never in a
traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, cast

import typer

from auth.errors import AuthError
from mcp_server.settings import SettingsRefused
from storage.errors import StoreError, StoreUnavailable
from vmm.errors import CasemateError

from ..data_dir_lock import DataDirInUse
from ..http.serve import PortRefused
from ..observability import logs as logging
from ..observability.tracing import TracingRefused
from . import (
    audit,
    config,
    cp,
    doctor,
    images,
    invites,
    keys,
    logs,
    members,
    quotas,
    sandboxes,
    serve,
    shell,
    snapshots,
    store,
    top,
    users,
)
from .completion import completion, listen_to_shells
from .console import CliError, print_errors
from .options import KeyFileOption, UrlOption

app = typer.Typer(
    name="casemate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(images.app, name="image")
app.add_typer(store.app, name="store")
app.add_typer(sandboxes.app, name="sandbox")
app.add_typer(snapshots.app, name="snapshot")
app.command("fork")(snapshots.fork)
app.command("shell")(shell.shell)
app.command("cp")(cp.cp)
app.command("logs")(logs.logs)
app.command("top")(top.top)
app.add_typer(keys.app, name="key")
app.add_typer(users.app, name="user")
app.add_typer(members.app, name="member")
app.add_typer(invites.app, name="invite")
app.add_typer(quotas.app, name="quota")
app.command("audit")(audit.audit)
app.command("completion")(completion)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"casemate {version('casemate')}")
        raise typer.Exit


@app.callback()
def casemate(
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """MicroVM sandboxes for AI agents, offered as MCP tools."""
    del url, key_file, show_version  # The commands take them from the context.
    logging.configure("warning", "auto")


_EXPECTED_ERRORS = (
    CliError,
    SettingsRefused,
    DataDirInUse,
    PortRefused,
    TracingRefused,
    CasemateError,
    StoreError,
    AuthError,
)
_REFUSED, _LATER = 2, 75  # EX_TEMPFAIL of sysexits.h: who supervises may start it again


def main() -> None:
    """The entry point of `casemate`."""
    status = _REFUSED
    listen_to_shells()
    try:
        app()
    except _EXPECTED_ERRORS as error:
        print_errors(*str(error).splitlines())
        status = _LATER if isinstance(error, StoreUnavailable) else _REFUSED
    except BaseExceptionGroup as group:
        known, others = group.split(_EXPECTED_ERRORS)
        if known is None or others is not None:
            raise
        print_errors(*_messages(cast("BaseExceptionGroup[BaseException]", known)))
        status = _LATER if known.split(StoreUnavailable)[1] is None else _REFUSED
    sys.exit(status)


def _messages(group: BaseExceptionGroup[BaseException]) -> list[str]:
    lines: list[str] = []
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            lines += _messages(cast("BaseExceptionGroup[BaseException]", member))
        else:
            lines += str(member).splitlines()
    return lines
