"""The command line, `casemate`: commands that call a server over REST, and commands that run on this host.

`serve`, `doctor`, `image`, `config`, `store` and the commands that read specs run on this host. An expected error
prints one line that says how to fix it and exits with status 2, or with 75 if a retry may succeed; it never prints a
traceback. The commands for specs, in `voidbox`, have VoidBox's form of errors and status 1.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from storage.errors import StoreUnavailable

from ..observability import logs as logging
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
    voidbox,
    volumes,
)
from .completion import completion, enable_completion
from .console import print_errors
from .expected_errors import EXPECTED_ERRORS, messages_of
from .options import KeyFileOption, UrlOption

app = typer.Typer(
    name="casemate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
voidbox.add_config_commands(config.app)
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
voidbox.add_commands(app)
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


_FAILED, _RETRY = 2, 75  # EX_TEMPFAIL of sysexits.h: a supervisor may start it again


def main() -> None:
    """Run `casemate` and exit with its status."""
    status = _FAILED
    enable_completion()
    try:
        app()
    except EXPECTED_ERRORS as error:
        print_errors(*messages_of(error))
        status = _RETRY if isinstance(error, StoreUnavailable) else _FAILED
    except BaseExceptionGroup as group:
        messages = messages_of(group)
        if not messages:
            raise
        print_errors(*messages)
        status = _RETRY if group.split(StoreUnavailable)[1] is None else _FAILED
    sys.exit(status)
