"""What tests do with sandboxes: make one, run a line in it."""

from __future__ import annotations

import pytest

from vmm.fleet import Fleet
from vmm.guest.values import Command, Outcome
from vmm.sandboxes.spec import SandboxSpec

ALICE = "a" * 24
WAIT_MS = 120_000
RESET = {7, 35, 55, 56}
"""curl's exit statuses, by where in its work the reset meets it: connect, agree on TLS, send, receive."""
only_taps = pytest.mark.parametrize("outside", ["taps"], indirect=True)


async def made(fleet: Fleet, network: str = "", name: str = "box") -> None:
    await fleet.sandboxes.create(ALICE, SandboxSpec(name=name, mem=512, network=network))


async def sh(fleet: Fleet, line: str, name: str = "box") -> Outcome:
    return await fleet.guest.exec(ALICE, name, Command(shell=line), wait_ms=WAIT_MS)


async def said(fleet: Fleet, line: str, name: str = "box") -> str:
    outcome = await sh(fleet, line, name)
    return (outcome.stdout.data() + outcome.stderr.data()).decode().strip()
