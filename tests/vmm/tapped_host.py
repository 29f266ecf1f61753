"""A host with taps in a network namespace, in which a test and its machines run, and an internet in another one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from tests.vmm.network.taps.namespaces import Namespace, namespace
from vmm.hypervisor.base import Hypervisor
from vmm.hypervisor.detect import choose
from vmm.network.rules import HostRules, denied_networks
from vmm.network.taps.kernel_log import KernelLog
from vmm.network.taps.listener import Listener
from vmm.network.taps.settings import TapSettings
from vmm.network.taps.taps import Taps

UPLINK, ROUTER = "192.0.2.2", "192.0.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TappedHost:
    """The host.

    Attributes:
        internet: What is behind it.
        taps: Gives machines their network devices.
        listener: Takes what the kernel redirects.
        kernel: What the kernel forwards and refuses.
        driver: Of its machines.
    """

    internet: Namespace
    taps: Taps
    listener: Listener
    kernel: KernelLog
    driver: Hypervisor


@contextmanager
def host_and_internet(*addresses: str) -> Generator[Namespace]:
    """Go on in a namespace whose default route leads to another one, which has these addresses."""
    with namespace() as host, namespace() as internet:
        host.ip(
            "link add uplink type veth peer name router",
            f"link set router netns {internet.path}",
            f"address add {UPLINK}/24 dev uplink",
            "link set uplink up",
            f"route add default via {ROUTER}",
        )
        internet.ip(
            f"address add {ROUTER}/24 dev router",
            "link set router up",
            *(f"address add {address}/32 dev lo" for address in addresses),
        )
        with host.entered():
            yield internet


@asynccontextmanager
async def tapped_host(internet: Namespace) -> AsyncGenerator[TappedHost]:
    """Give the host that this thread is in a bridge, for the length of a block."""
    settings = TapSettings.read({})
    with Listener.open(settings.gateway.ip) as listener, KernelLog.open() as kernel:
        taps = await Taps.open(settings, denied=denied_networks(HostRules()), ports=listener.ports)
        driver = (await choose(nics=taps)).driver
        yield TappedHost(internet=internet, taps=taps, listener=listener, kernel=kernel, driver=driver)
        await taps.aclose()
