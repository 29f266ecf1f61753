"""A fork bomb in a sandbox, and what other calls see of it: `python -m bench.wedged [SECONDS]`.

The bomb's command has a time limit. Meanwhile a ping and a command of `true` are sent again and again; afterwards,
commands until one is answered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable

import anyio

from bench.fleet import OWNER, opened, quiet, said, scratch
from vmm.errors import LinkError
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.sandboxes.spec import SandboxSpec

_BOMBS = (":(){ :|:& };:; sleep 1000", "f(){ while :; do f & done; }; f")
_PAUSE_S = 0.2
_GIVE_UP_S = 120
_WAIT_MS = 5_000


async def main(seconds: float) -> None:
    quiet()
    print("| bomb | pings: lost, slowest | commands: lost, slowest | its end to the next answer |")
    print("|---|---|---|---|")
    async with scratch() as data, opened(data) as fleet:
        for line in _BOMBS:
            await fleet.sandboxes.create(OWNER, SandboxSpec(name="box", image="minimal", mem=512))
            await said(fleet, "box", "true")
            print(
                f"| `{line.replace('|', chr(92) + '|')}` | {' | '.join(await _wedge(fleet, line, seconds))} |",
                flush=True,
            )
            await fleet.sandboxes.delete(OWNER, "box")


async def _wedge(fleet: Fleet, line: str, seconds: float) -> tuple[str, str, str]:
    pings, commands = _Probe(), _Probe()
    command = Command(shell=line, timeout_ms=int(seconds * 1000))
    async with fleet.guest.reach(OWNER, "box") as (_, link), anyio.create_task_group() as tasks:
        tasks.start_soon(pings.repeat, lambda: link.ping(timeout_ms=_WAIT_MS))
        tasks.start_soon(commands.repeat, lambda: link.exec(Command(argv=("/bin/true",)), wait_ms=_WAIT_MS))
        began = time.monotonic()
        try:
            await link.exec(command, wait_ms=int(seconds * 1000))
        except LinkError:
            # The answer is lost; what counts is when others get theirs.
            await anyio.sleep(max(0.0, began + seconds - time.monotonic()))
        tasks.cancel_scope.cancel()
    end = time.monotonic()
    while time.monotonic() < end + _GIVE_UP_S:
        try:
            await fleet.guest.exec(OWNER, "box", Command(argv=("/bin/true",)), wait_ms=_WAIT_MS)
        except LinkError:
            continue
        return pings.text(), commands.text(), f"{time.monotonic() - end:.1f} s"
    return pings.text(), commands.text(), f"none in {_GIVE_UP_S} s"


class _Probe:
    def __init__(self) -> None:
        self._lost = 0
        self._times: list[float] = []

    async def repeat(self, operation: Callable[[], Awaitable[object]]) -> None:
        while True:
            began = time.monotonic()
            try:
                await operation()
            except LinkError:
                self._lost += 1
            self._times.append(time.monotonic() - began)
            await anyio.sleep(_PAUSE_S)

    def text(self) -> str:
        """How many were lost, of how many, and the longest wait for an answer or for a refusal."""
        return f"{self._lost} of {len(self._times)}, {max(self._times, default=0.0):.2f} s"


if __name__ == "__main__":
    anyio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 15.0)
