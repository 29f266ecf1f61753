"""`casemate doctor`: what the host has, what is missing, and the command that mends it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mcp_server.settings import Settings
from vmm.hypervisor.doctor import examine

from .console import out, run

if TYPE_CHECKING:
    from vmm.hypervisor.doctor import Finding


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """Look at the host and say what Casemate needs there. Exit status 1 if something is missing."""
    data = Settings.load().data
    findings = run(lambda: examine(data))
    healthy = all(finding.ok or not finding.required for finding in findings)
    if as_json:
        report = {"ok": healthy, "findings": [dataclasses.asdict(finding) for finding in findings]}
        out.print(json.dumps(report, indent=2), markup=False)
    else:
        out.print(_table(findings))
        fixes = list(dict.fromkeys(finding.fix for finding in findings if finding.fix and finding.required))
        for fix in fixes:
            out.print(f"  {fix}", markup=False)
        out.print("Everything that is needed is there." if healthy else "Mend that, then run casemate doctor again.")
    raise typer.Exit(0 if healthy else 1)


def _table(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]missing[/]" if finding.required else "[yellow]absent[/]"
        table.add_row(mark, finding.name, finding.detail)
    return table
