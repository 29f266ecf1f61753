"""`casemate run`: run a spec in a machine of the server, which is deleted at the end."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ..observability import logs
from .console import CliError, err, note
from .forms import FileOption, Form, LogLevelOption, NoBannerOption, OutputOption, form_of, reported
from .options import target_of
from .run_machine import WORKSPACE

_FAILED = 1


def run_spec(
    context: typer.Context,
    file: FileOption,
    given: Annotated[str, typer.Option("--input", metavar="TEXT", help="Text that precedes a workflow's output.")] = "",
    working_dir: Annotated[
        str, typer.Option("--working-dir", metavar="DIR", help="Directory of the machine in which steps start.")
    ] = WORKSPACE,
    no_banner: NoBannerOption = False,
    log_level: LogLevelOption = "",
    output: OutputOption = None,
) -> None:
    """Run a spec and print its result. Exit status 1 if it did not succeed; Ctrl-C ends the machine.

    A workflow's steps run in one machine, each as soon as the steps that it needs have succeeded. A sandbox runs until
    Ctrl-C. Progress goes to standard error.
    """
    # Imported late: the parser and the models take longer than most other commands need to start.
    from .client_config import merged  # noqa: PLC0415
    from .spec_run import SpecRun  # noqa: PLC0415

    form = form_of(context, output)
    with reported(form):
        top = context.find_root().params
        config = merged(
            os.environ,
            log_level=log_level or top.get("log_level") or "",
            no_banner=no_banner or bool(top.get("no_banner")),
        )
        logs.configure(config.log_level, "auto")
        if not working_dir.startswith("/"):
            raise CliError(f"--working-dir must be an absolute path such as {WORKSPACE}, got {working_dir[:80]!r}")
        spec = SpecRun.of(file, target_of(context), cwd=working_dir, quiet=form is Form.JSON)
        if config.banner and form is Form.HUMAN and sys.stdin.isatty() and err.is_terminal:
            note(f"casemate {version('casemate')}: a machine of its own for every run")
        warnings = [*config.warnings, *spec.warnings()]
        if form is Form.HUMAN:
            for warning in warnings:
                note(f"warning: {warning}")
        result = spec.result(given)
        result.show(form, warnings)
    if not result.success:
        raise typer.Exit(_FAILED)
