"""A server's fleet on a host without taps or with them."""

from __future__ import annotations

import copy
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio

from bench.fleet import Host, opened
from vmm.fleet import Fleet
from vmm.network.gateway import Gateway
from vmm.network.policy import Policy
from vmm.network.rules import HostRules, denied_networks
from vmm.network.taps.kernel_log import KernelLog
from vmm.network.taps.listener import Listener
from vmm.network.taps.settings import TapSettings
from vmm.network.taps.taps import Taps

SETTINGS = TapSettings.read({})


@asynccontextmanager
async def serving(
    data: Path, images: Path, host: Host, *, own_memory: bool | None = None, taps: bool = False
) -> AsyncGenerator[Fleet]:
    """Serve on a data directory for the length of a block; again on the same one, it is the next server.

    Args:
        data: The directory.
        images: Where the images are.
        host: What a server finds.
        own_memory: Whether machines have memory files of their own from the start; else as the driver prefers.
        taps: Whether machines have taps, in the network namespace of the calling thread.
    """
    if not taps:
        async with opened(data, at=images, host=host, own_memory=own_memory) as fleet:
            yield fleet
        return
    with Listener.open(SETTINGS.gateway.ip) as listener, KernelLog.open() as kernel:
        made = await Taps.open(SETTINGS, denied=denied_networks(HostRules()), ports=listener.ports)
        driver = copy.copy(host.driver)
        driver.nics = made
        gateway = Gateway(
            default=Policy.parse("internet"), host=HostRules, clock=lambda: time.time_ns() // 1_000_000, taps=made
        )
        async with (
            anyio.create_task_group() as tasks,
            opened(data, at=images, host=replace(host, driver=driver), own_memory=own_memory, gateway=gateway) as fleet,
        ):
            tasks.start_soon(gateway.serve_taps, listener, kernel)
            yield fleet
            tasks.cancel_scope.cancel()
        await made.aclose()
