"""The network of sandboxes as the settings ask for it: by taps where the server may make them, else in user mode."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import structlog

from auth.clock import now_ms
from vmm.errors import Conflict, Unavailable
from vmm.network.gateway import USER_MODE, Gateway
from vmm.network.own_addresses import OwnAddresses
from vmm.network.packages import registries
from vmm.network.policy import Policy
from vmm.network.rules import HostRules, denied_networks
from vmm.network.taps.kernel_log import KernelLog
from vmm.network.taps.listener import Listener
from vmm.network.taps.refusals import require_privilege
from vmm.network.taps.taps import Taps

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from vmm.network.taps.settings import TapSettings

    from .settings import Settings

_log = structlog.stdlib.get_logger("casemate.network")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestNetwork:
    """The network of sandboxes.

    Attributes:
        gateway: Decides where they may connect to.
        taps: Gives machines their devices; None in user mode.
        way: How they reach the network, for people; in user mode also why.
    """

    gateway: Gateway
    taps: Taps | None
    way: str


@asynccontextmanager
async def open_guest_network(settings: Settings) -> AsyncGenerator[GuestNetwork]:
    """Open the network of sandboxes for the duration of a block; running machines keep theirs after it.

    Raises:
        Conflict, Unavailable: The settings ask for taps, and this host cannot have them.
    """
    rules = await _host_rules(settings)
    default = Policy.parse(settings.network)
    async with AsyncExitStack() as stack:
        try:
            taps, listener, kernel = await _open_taps(settings, rules(), stack)
        except (Conflict, Unavailable) as error:
            if settings.network_way == "taps":
                raise
            way = f"{USER_MODE} ({error.message})" if settings.network_way == "auto" else USER_MODE
            yield GuestNetwork(gateway=Gateway(default=default, host=rules, clock=now_ms), taps=None, way=way)
            return
        gateway = Gateway(default=default, host=rules, clock=now_ms, taps=taps)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.serve_taps, listener, kernel)
            yield GuestNetwork(gateway=gateway, taps=taps, way=described(settings.taps))
            tasks.cancel_scope.cancel()


def described(taps: TapSettings) -> str:
    """Say where taps are, for people."""
    return f"a tap for each sandbox on the bridge {taps.bridge}, {taps.gateway}"


async def _open_taps(settings: Settings, rules: HostRules, stack: AsyncExitStack) -> tuple[Taps, Listener, KernelLog]:
    """Open everything that taps need, or nothing.

    Raises:
        Conflict, Unavailable: This host cannot have them, or the settings ask for user mode.
    """
    if settings.network_way == "user":
        raise Unavailable("The settings ask for user mode")
    require_privilege()
    async with AsyncExitStack() as opened:
        listener = opened.enter_context(Listener.open(settings.taps.gateway.ip))
        kernel = opened.enter_context(KernelLog.open())
        taps = await Taps.open(settings.taps, denied=denied_networks(rules), ports=listener.ports)
        opened.push_async_callback(taps.aclose)
        stack.push_async_exit(opened.pop_all())
    return taps, listener, kernel


async def _host_rules(settings: Settings) -> Callable[[], HostRules]:
    """Return the operator's rules, with the package registries that this host's own tools use."""
    found = await anyio.to_thread.run_sync(registries, os.environ, Path.home())
    packages = tuple(dict.fromkeys((*found, *settings.network_packages)))
    opened = tuple(IPv4Network(entry) for entry in settings.network_open)
    told = tuple(map(IPv4Address, settings.network_own))
    own = OwnAddresses()
    own()  # the server does not start without them; later, those that are known remain

    def rules() -> HostRules:
        return HostRules(packages=packages, opened=opened, own=(*own(), *told))

    return rules
