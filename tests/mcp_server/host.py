"""A sandbox without a virtual machine: the real agent on this host, the real link, behind the fleet's interface.

What the tools make of a guest is tested on it in seconds; that the fleet brings guests about is tested elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

import vmm.agent
from vmm.errors import NotFound
from vmm.fleet import Page
from vmm.guest.link import GuestLink
from vmm.guest_calls import GuestCalls
from vmm.sandbox import Sandbox, State
from vmm.spec import SandboxSpec

SANDBOX = "0123456789abcdef01234567"
NAME = "box"
ALICE = "a" * 24


class OneHost(GuestCalls):
    """Alice has one sandbox, `box`: this host. Nobody else has any."""

    def __init__(self, link: GuestLink) -> None:
        self._link = link
        spec = SandboxSpec(name=NAME, env={"FROM_SANDBOX": "yes"})
        self._sandbox = Sandbox.new(SANDBOX, ALICE, spec, now_ms=0).moved(State.RUNNING, now_ms=0)

    async def get(self, owner: str, ref: str) -> Sandbox:
        if owner != ALICE or ref not in {SANDBOX, NAME}:
            raise NotFound(f"There is no sandbox {ref[:80]!r}", hint="List the sandboxes, or create one")
        return self._sandbox

    async def list(self, owner: str, **_: object) -> Page:
        items = (self._sandbox,) if owner == ALICE else ()
        return Page(items=items, total=len(items), page=1, limit=20)

    async def health(self) -> dict[str, str]:
        return {"store": "", "hypervisor": "", "image": ""}

    @asynccontextmanager
    async def reach(self, owner: str, ref: str) -> AsyncGenerator[tuple[Sandbox, GuestLink]]:
        yield await self.get(owner, ref), self._link


@asynccontextmanager
async def one_host(directory: Path) -> AsyncGenerator[OneHost]:
    """Run the agent for the length of a block."""
    secret = os.urandom(32)
    port_file = directory / "port"
    agent = Path(vmm.agent.__file__).parent
    options = ["--listen", "127.0.0.1:0", "--port-file", str(port_file), "--secret-hex-env", "AGENT_SECRET"]
    process = await anyio.open_process(
        [sys.executable, "-I", "-S", "-B", "-u", str(agent), *options, "--no-identity-privileges"],
        env={**os.environ, "AGENT_SECRET": secret.hex(), "HOME": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
    )
    try:
        with anyio.fail_after(10):
            while not port_file.exists():
                await anyio.sleep(0.01)
        port = int(port_file.read_text())

        async def dial() -> Any:
            return await anyio.connect_tcp("127.0.0.1", port)

        link = GuestLink(dial, secret)
        try:
            yield OneHost(link)
        finally:
            await link.aclose()
    finally:
        process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()
