"""The command line `voidbox`: the commands of `casemate` that are VoidBox's, with its options before or after them."""

from __future__ import annotations

import typer

from ..observability import logs
from . import client_config_commands, exec_once, run_spec, specs
from .forms import LogLevelOption, NoBannerOption, OutputOption
from .options import KeyFileOption, UrlOption

app = typer.Typer(name="voidbox", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
config = typer.Typer(help="Configuration.", no_args_is_help=True)


def add_commands(group: typer.Typer) -> None:
    """Add the commands for specs to a command line."""
    group.command("run")(run_spec.run_spec)
    group.command("exec", context_settings={"allow_interspersed_args": False})(exec_once.exec_once)
    group.command("validate")(specs.validate)
    group.command("inspect")(specs.inspect)
    group.command("skills")(specs.skills)
    group.command("version")(specs.version)


def add_config_commands(group: typer.Typer) -> None:
    """Add the commands for VoidBox's configuration to a group."""
    group.command("init")(client_config_commands.init)
    group.command("validate")(client_config_commands.validate)


add_commands(app)
add_config_commands(config)
app.add_typer(config, name="config")


@config.callback()
def configuration() -> None:
    """Configuration."""


@app.callback()
def voidbox(
    output: OutputOption = None,
    no_banner: NoBannerOption = False,
    log_level: LogLevelOption = "",
    url: UrlOption = "",
    key_file: KeyFileOption = None,
) -> None:
    """VoidBox's specs, run in microVMs by Casemate."""
    del output, no_banner, log_level, url, key_file  # Commands read them from the context.
    logs.configure("warning", "auto")


def main() -> None:
    """Run `voidbox` and exit with its status: 0, 1 after an error or without success, 2 for wrong usage."""
    app()
