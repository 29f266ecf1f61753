"""`casemate validate`, `inspect`, `skills` and `version`: what a spec says, without running it."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

import typer

from .console import note, out, show_json, show_table
from .forms import FileOption, Form, OutputOption, form_of, reported

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from runs.specs.document import Document
    from runs.specs.rules import Problem


def validate(context: typer.Context, file: FileOption, output: OutputOption = None) -> None:
    """Check a spec and print every fault with its line and column. Exit status 1 if there is any."""
    form = form_of(context, output)
    from runs.engine.support import unsupported, without_effect  # noqa: PLC0415 -- late, see `_load`

    with reported(form):
        document = _load(file)
        spec = document.spec
        warnings = warned(document, (*unsupported(spec), *without_effect(spec)))
        if form is Form.JSON:
            checked = {"valid": True, "file": str(file), "kind": spec.kind, "api_version": spec.api_version}
            show_json(checked | ({"warnings": warnings} if warnings else {}))
        else:
            out.print(f"valid: {file} (kind={spec.kind}, api_version={spec.api_version})", markup=False)
            for warning in warnings:
                note(f"warning: {warning}")


def inspect(context: typer.Context, file: FileOption, output: OutputOption = None) -> None:
    """Print what a spec says about its machine, with the defaults; mounts and variables are counted."""
    with reported(form_of(context, output)):
        spec = _load(file).spec
        box = spec.sandbox
        fields = ("mode", "kernel", "initramfs", "memory_mb", "vcpus", "network", "image", "snapshot")
        sandbox = {name: getattr(box, name) for name in fields}
        counts = {"mounts": len(box.mounts), "env_vars": len(box.env)}
        show_json(
            {
                "file": str(file),
                "name": spec.name,
                "kind": spec.kind,
                "api_version": spec.api_version,
                "sandbox": sandbox | counts,
            }
        )


def skills(context: typer.Context, file: FileOption, output: OutputOption = None) -> None:
    """List the skills of a spec, and whose each is."""
    form = form_of(context, output)
    with reported(form):
        found = _load(file).spec.skills()
        if form is Form.JSON:
            show_json([{"source": source, "value": value} for source, value in found])
        elif found:
            show_table(found)
        else:
            out.print("No skills defined.", markup=False)


def version(context: typer.Context, output: OutputOption = None) -> None:
    """Print the version."""
    found = {"version": installed_version("casemate"), "name": "casemate"}
    if form_of(context, output) is Form.JSON:
        show_json(found)
    else:
        out.print(f"{found['name']} {found['version']}", markup=False)


def _load(file: Path) -> Document:
    # Imported late: the parser and the models take longer than most other commands need to start.
    from runs.specs.document import load  # noqa: PLC0415

    return load(file)


def warned(document: Document, problems: Iterable[Problem]) -> list[str]:
    """Return problems that are no faults as lines with their places."""
    return [fault.at(document.file) for fault in document.place(problems)]
