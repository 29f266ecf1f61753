"""The command line, `casemate`: commands that call a server over REST, and commands that run on this host.

`serve`, `doctor`, `image`, `config` and `store` run on this host. An expected error prints one line that says how to
fix it and exits with status 2, or with 75 if a retry may succeed; it never prints a traceback.
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
    network,
    port_forward,
    ports,
    quotas,
    sandboxes,
    serve,
    shell,
    snapshots,
    store,
    templates,
    top,
    users,
    volumes,
)
from .completion import completion, enable_completion
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
app.add_typer(volumes.app, name="volume")
app.add_typer(network.app, name="network")
app.command("fork")(snapshots.fork)
app.command("shell")(shell.shell)
app.command("cp")(cp.cp)
app.add_typer(ports.app, name="port")
app.command("port-forward")(port_forward.port_forward)
app.command("logs")(logs.logs)
app.command("top")(top.top)
app.add_typer(keys.app, name="key")
app.add_typer(users.app, name="user")
app.add_typer(members.app, name="member")
app.add_typer(invites.app, name="invite")
app.add_typer(quotas.app, name="quota")
app.add_typer(templates.app, name="template")
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
    del url, key_file, show_version  # Commands read them from the context.
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
_FAILED, _RETRY = 2, 75  # EX_TEMPFAIL of sysexits.h: a supervisor may start it again


def main() -> None:
    """Run `casemate` and exit with its status."""
    status = _FAILED
    enable_completion()
    try:
        app()
    except _EXPECTED_ERRORS as error:
        print_errors(*str(error).splitlines())
        status = _RETRY if isinstance(error, StoreUnavailable) else _FAILED
    except BaseExceptionGroup as group:
        known, others = group.split(_EXPECTED_ERRORS)
        if known is None or others is not None:
            raise
        print_errors(*_messages(cast("BaseExceptionGroup[BaseException]", known)))
        status = _RETRY if known.split(StoreUnavailable)[1] is None else _FAILED
    sys.exit(status)


def _messages(group: BaseExceptionGroup[BaseException]) -> list[str]:
    lines: list[str] = []
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            lines += _messages(cast("BaseExceptionGroup[BaseException]", member))
        else:
            lines += str(member).splitlines()
    return lines
