"""`casemate config init` and `config validate`: VoidBox's configuration of the commands for specs."""

from __future__ import annotations

import os
from typing import Any

import typer

from mcp_server.settings import Settings

from .console import CliError, note, out, plain, show_json
from .forms import Form, OutputOption, form_of, reported


def init(context: typer.Context, output: OutputOption = None) -> None:
    """Write a configuration file for the commands for specs, unless there is one."""
    from .client_config import TEMPLATE, user_file  # noqa: PLC0415 -- late, as in `run_spec`

    form = form_of(context, output)
    with reported(form):
        path = user_file(os.environ)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(TEMPLATE)
        except FileExistsError:
            raise CliError(f"{path} is there already: edit it, or move it away") from None
        except OSError as error:
            raise CliError(f"Cannot write {path} ({error.strerror}): set XDG_CONFIG_HOME") from None
        if form is Form.JSON:
            show_json({"file": str(path)})
        else:
            out.print(f"Wrote {plain(str(path))}", markup=False)


def validate(context: typer.Context, output: OutputOption = None) -> None:
    """Check the configuration of the commands for specs, and print what is in effect."""
    from .client_config import merged, user_file  # noqa: PLC0415 -- late, as in `run_spec`

    form = form_of(context, output)
    with reported(form):
        found = merged(os.environ)
        data = Settings.load().data
        effective: dict[str, Any] = {
            "log_level": found.log_level,
            "daemon_url": None,
            "banner": found.banner,
            "state_dir": str(data),
            "log_dir": None,
            "snapshot_dir": str(data / "snapshots"),
            "config_dir": str(user_file(os.environ).parent),
            "kernel": None,
            "initramfs": None,
        }
        if form is Form.JSON:
            more = {"files": [str(path) for path in found.files], "warnings": list(found.warnings)}
            show_json(effective | more)
            return
        for name, value in effective.items():
            shown = "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            out.print(f"{name}: {plain(shown)}", markup=False)
        for warning in found.warnings:
            note(f"warning: {warning}")
