"""`casemate config`: which settings are in force, where each came from, and which variables do nothing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mcp_server.settings import PREFIX, Settings, SettingsRefused
from mcp_server.settings.names import SECRETS, without_effect

from .console import err, out, print_errors, show_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcp_server.settings import Reading

app = typer.Typer(help="The settings.", no_args_is_help=True)
_DEFAULT = "default"


@app.callback()
def config() -> None:
    """The settings."""


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """Print every setting, its value, and where it came from; secrets are hidden.

    Exit status 2, and all reasons, if one is refused.
    """
    try:
        reading = Settings.read(os.environ)
    except SettingsRefused as refused:
        if as_json:
            out.print(json.dumps({"refused": refused.reasons}, indent=2), markup=False)
        else:
            print_errors(*refused.reasons)
        raise typer.Exit(2) from None
    idle = _idle(os.environ)
    if as_json:
        report = {
            "settings": [
                {
                    "name": name,
                    "variable": _variable(name),
                    "secret": name in SECRETS,
                    "value": _plain(name, reading),
                    "origin": _origin(name, reading),
                }
                for name in Settings.model_fields
            ],
            "registrationPolicy": reading.settings.registration_policy,
            "withoutEffect": [
                {"variable": variable, "system": system, "reason": reason} for variable, system, reason in idle
            ],
            "warnings": list(reading.warnings),
        }
        out.print(json.dumps(report, indent=2), markup=False)
        return
    show_table([(_variable(name), _shown(name, reading), _origin(name, reading)) for name in Settings.model_fields])
    if idle:
        out.print("\nSet, but without effect:\n", markup=False)
        show_table([(f"{variable} ({system})", reason) for variable, system, reason in idle])
    for warning in reading.warnings:
        err.print(f"casemate: {warning}", markup=False, style="yellow")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _origin(name: str, reading: Reading) -> str:
    return str(reading.origins.get(name, _DEFAULT))


def _plain(name: str, reading: Reading) -> bool | int | str | list[str]:
    """A value as JSON has it; of a secret only whether it is set."""
    value: object = getattr(reading.settings, name)
    if name in SECRETS:
        return bool(value)
    if isinstance(value, tuple):
        return [str(part) for part in cast("tuple[object, ...]", value)]
    return value if isinstance(value, bool | int | str) else str(value)


def _shown(name: str, reading: Reading) -> str:
    """A value as a person would type it."""
    value = _plain(name, reading)
    if name in SECRETS:
        return "set (hidden)" if value else "not set"
    if isinstance(value, bool):
        return str(value).lower()
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text or (f"- ({reading.settings.registration_policy})" if name == "registration" else "-")


def _idle(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Variables that are set, belong to a system that Casemate replaces, and do nothing: name, system, reason."""
    found = ((variable, without_effect(variable)) for variable in sorted(environ) if environ[variable])
    return [(variable, idle.system, idle.reason) for variable, idle in found if idle is not None]
