"""Create to first exec through MCP, against a cold boot in the same run: `python -m bench.create [RUNS]`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import anyio

from bench.server import HEAD, Server, call, row, running
from vmm.guest.values import Command
from vmm.hypervisor import detect
from vmm.images.catalogue import Catalogue
from vmm.machines.template import boot_image, guess_tsc_khz

_COLD = 5


async def main(runs: int) -> None:
    async with running() as server, server.client() as client:
        warm = json.loads(await call(client, "create_sandbox", name="warm-up"))
        await call(client, "delete_sandbox", id=warm["id"])
        created: list[float] = []
        first: list[float] = []
        whole: list[float] = []
        for _ in range(runs):
            began = time.monotonic()
            sandbox = json.loads(await call(client, "create_sandbox", name="box"))
            middle = time.monotonic()
            await call(client, "execute_command", id=sandbox["id"], command="true")
            end = time.monotonic()
            created.append(middle - began)
            first.append(end - middle)
            whole.append(end - began)
            await call(client, "delete_sandbox", id=sandbox["id"])
        cold = [await _cold(server) for _ in range(_COLD)]
    print(HEAD)
    print(row("create_sandbox", created))
    print(row("first execute_command", first))
    print(row("create to first exec", whole))
    print(row("cold boot to first exec", cold))


async def _cold(server: Server) -> float:
    images = await Catalogue(server.data / "images").find("code")
    choice = await detect.choose()
    assert images is not None
    place = Path(tempfile.mkdtemp(prefix="casemate-bench-"))
    began = time.monotonic()
    machine = await boot_image(choice.driver, images, place, cpu=1, mem=1024, tsc_khz=guess_tsc_khz())
    await machine.link.exec(Command(shell="true"), wait_ms=30_000)
    took = time.monotonic() - began
    await machine.stop()
    shutil.rmtree(place)
    return took


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 30)
