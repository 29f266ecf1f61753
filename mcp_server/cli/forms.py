"""Options and output of the commands for specs, as VoidBox has them: for people or as JSON, errors included."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runs.specs.faults import SpecRefused
from vmm.errors import CasemateError

from .console import err, plain
from .expected_errors import EXPECTED_ERRORS, messages_of

if TYPE_CHECKING:
    from collections.abc import Generator

_FAILED = 1


class Form(StrEnum):
    """Who reads the output."""

    HUMAN = "human"
    JSON = "json"


def _form(value: str) -> Form:
    try:
        return Form(value.lower())
    except ValueError:
        raise typer.BadParameter(f"unknown output format {value[:80]!r}, expected human|json") from None


OutputOption = Annotated[
    Form | None, typer.Option("--output", metavar="human|json", parser=_form, help="Who reads it; default: human.")
]
NoBannerOption = Annotated[bool, typer.Option("--no-banner", help="Print no banner.")]
LogLevelOption = Annotated[
    str, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error; default: info.")
]
FileOption = Annotated[Path, typer.Option("--file", metavar="FILE", help="The spec: YAML or JSON.", show_default=False)]


def form_of(context: typer.Context, given: Form | None) -> Form:
    """Return the form that was chosen with the command or, for `voidbox`, before it."""
    return given or context.find_root().params.get("output") or Form.HUMAN


@contextmanager
def reported(form: Form) -> Generator[None]:
    """Print what a block raises as VoidBox does: lines that begin with `error:`, or a JSON object.

    Raises:
        typer.Exit: An expected error was printed; the status is 1.
    """
    try:
        yield
    except (*EXPECTED_ERRORS, BaseExceptionGroup) as error:
        messages = messages_of(error)
        if not messages:
            raise
        if form is Form.JSON:
            sys.stderr.write(json.dumps({"error": _object(error, messages)}) + "\n")
        else:
            for message in messages:
                err.print(f"error: {plain(message)}", markup=False, style="red")
        raise typer.Exit(_FAILED) from None


def _object(error: BaseException, messages: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"message": "; ".join(messages)}
    if isinstance(error, SpecRefused):
        faults = [
            {"line": one.line, "column": one.column, "path": one.path, "message": one.message} for one in error.faults
        ]
        return found | {"code": "INVALID_SPEC", "file": error.file, "faults": faults}
    return found | ({"code": error.code.upper()} if isinstance(error, CasemateError) else {})
