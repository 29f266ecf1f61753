"""A sandbox without a virtual machine: the real agent on this host, the real link, behind the fleet's interface.

What the tools make of a guest is tested on it in seconds; that the fleet brings guests about is tested elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

import vmm.agent
from storage.ids import new_id
from vmm.errors import NotFound
from vmm.fleet import Page
from vmm.guest.link import GuestLink
from vmm.guest_calls import GuestCalls
from vmm.sandbox import Sandbox, State
from vmm.spec import SandboxSpec, check_labels, check_name
from vmm.usage import Usage

SANDBOX = "0123456789abcdef01234567"
NAME = "box"
ALICE = "a" * 24


class OneHost(GuestCalls):
    """Alice has one sandbox, `box`: this host. Nobody else has any."""

    def __init__(self, link: GuestLink) -> None:
        self._link = link
        spec = SandboxSpec(name=NAME, env={"FROM_SANDBOX": "yes"})
        self._sandboxes = [Sandbox.new(SANDBOX, ALICE, spec, now_ms=0).moved(State.RUNNING, now_ms=0)]

    def images(self) -> tuple[str, ...]:
        return ("code", "minimal")

    async def create(self, owner: str, spec: SandboxSpec) -> Sandbox:
        """One more name for this host."""
        spec.check(self.images())
        sandbox = Sandbox.new(new_id(), owner, spec, now_ms=0).moved(State.RUNNING, now_ms=0)
        self._sandboxes.insert(0, sandbox)
        return sandbox

    async def get(self, owner: str, ref: str) -> Sandbox:
        for sandbox in self._sandboxes:
            if sandbox.owner == owner and ref in {sandbox.id, sandbox.name}:
                return sandbox
        raise NotFound(f"There is no sandbox {ref[:80]!r}", hint="List the sandboxes, or create one")

    async def list(
        self, owner: str, *, labels: Mapping[str, str] | None = None, page: int = 1, limit: int = 20
    ) -> Page:
        wanted = (labels or {}).items()
        found = [item for item in self._sandboxes if item.owner == owner and wanted <= item.labels.items()]
        start = (page - 1) * limit
        return Page(items=tuple(found[start : start + limit]), total=len(found), page=page, limit=limit)

    async def update(
        self,
        owner: str,
        ref: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        auto_sleep: bool | None = None,
    ) -> Sandbox:
        if name is not None:
            check_name(name)
        if labels is not None:
            check_labels(labels)
        old = await self.get(owner, ref)
        new = replace(
            old,
            name=old.name if name is None else name,
            labels=old.labels if labels is None else labels,
            auto_sleep=old.auto_sleep if auto_sleep is None else auto_sleep,
        )
        self._sandboxes[self._sandboxes.index(old)] = new
        return new

    async def delete(self, owner: str, ref: str) -> None:
        self._sandboxes.remove(await self.get(owner, ref))

    async def usage(self, owner: str) -> Usage:
        return Usage.of(sandbox for sandbox in self._sandboxes if sandbox.owner == owner)

    async def survey(self) -> dict[State, Usage]:
        return {State.RUNNING: Usage.of(self._sandboxes)}

    async def health(self, image: str) -> dict[str, str]:
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
