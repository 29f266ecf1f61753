"""`casemate config`: show the effective settings, their origins, and variables without effect."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mcp_server.settings import PREFIX, Settings, SettingsRefused
from mcp_server.settings.env_file import with_env_file
from mcp_server.settings.names import SECRETS, set_without_effect

from .console import err, out, print_errors, show_table
from .options import EnvFileOption

if TYPE_CHECKING:
    from mcp_server.settings import Reading

app = typer.Typer(help="Settings.", no_args_is_help=True)
_DEFAULT = "default"


@app.callback()
def config() -> None:
    """Settings."""


@app.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, env_file: EnvFileOption = None
) -> None:
    """Print every setting, its value and its origin; secrets are hidden.

    If a setting is invalid, print every reason and exit with status 2.
    """
    try:
        environ = with_env_file(os.environ, env_file)
        reading = Settings.read(environ)
    except SettingsRefused as refused:
        if as_json:
            out.print(json.dumps({"refused": refused.reasons}, indent=2), markup=False)
        else:
            print_errors(*refused.reasons)
        raise typer.Exit(2) from None
    ignored = set_without_effect(environ)
    if as_json:
        report = {
            "settings": [
                {
                    "name": name,
                    "variable": _variable(name),
                    "secret": name in SECRETS,
                    "value": _json_value(name, reading),
                    "origin": _origin(name, reading),
                }
                for name in Settings.model_fields
            ],
            "registrationPolicy": reading.settings.registration_policy,
            "withoutEffect": [
                {"variable": variable, "system": one.system, "reason": one.reason} for variable, one in ignored
            ],
            "warnings": list(reading.warnings),
        }
        out.print(json.dumps(report, indent=2), markup=False)
        return
    show_table([(_variable(name), _shown(name, reading), _origin(name, reading)) for name in Settings.model_fields])
    if ignored:
        out.print("\nSet, but without effect:\n", markup=False)
        show_table([(f"{variable} ({one.system})", one.reason) for variable, one in ignored])
    for warning in reading.warnings:
        err.print(f"casemate: {warning}", markup=False, style="yellow")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _origin(name: str, reading: Reading) -> str:
    return str(reading.origins.get(name, _DEFAULT))


def _json_value(name: str, reading: Reading) -> bool | int | str | list[str]:
    """Return a setting as a JSON value; for a secret, only whether it is set."""
    value: object = getattr(reading.settings, name)
    if name in SECRETS:
        return bool(value)
    if isinstance(value, tuple):
        return [str(part) for part in cast("tuple[object, ...]", value)]
    return value if isinstance(value, bool | int | str) else str(value)


def _shown(name: str, reading: Reading) -> str:
    """Return a setting as a user would type it."""
    value = _json_value(name, reading)
    if name in SECRETS:
        return "set (hidden)" if value else "not set"
    if isinstance(value, bool):
        return str(value).lower()
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text or (f"- ({reading.settings.registration_policy})" if name == "registration" else "-")
