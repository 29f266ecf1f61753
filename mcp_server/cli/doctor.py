"""`casemate doctor`: check the host's requirements and print the commands that install missing ones."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_server.settings import Settings
from vmm.hypervisor.doctor import examine
from vmm.network.doctor import examine as network

from .console import out, run, show_table

if TYPE_CHECKING:
    from vmm.hypervisor.doctor import Finding


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check whether the host meets Casemate's requirements. Exit status 1 if something required is missing."""
    settings = Settings.load()

    async def work() -> tuple[Finding, ...]:
        return *await examine(settings.data), await network(settings.taps)

    findings = run(work)
    healthy = all(finding.ok or not finding.required for finding in findings)
    if as_json:
        report = {"ok": healthy, "findings": [dataclasses.asdict(finding) for finding in findings]}
        out.print(json.dumps(report, indent=2), markup=False)
    else:
        show_table([_row(finding) for finding in findings])
        fixes = list(dict.fromkeys(finding.fix for finding in findings if finding.fix and finding.required))
        for fix in fixes:
            out.print(f"  {fix}", markup=False)
        out.print("All requirements are met." if healthy else "Fix this, then run casemate doctor again.")
    raise typer.Exit(0 if healthy else 1)


def _row(finding: Finding) -> tuple[str, str, str]:
    mark = "ok" if finding.ok else "MISSING" if finding.required else "absent"
    return mark, finding.name, finding.detail
