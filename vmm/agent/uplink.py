"""The two ways out of a sandbox whose machine has a network device: that device, or the agent's own (see `network`).

The host decides which one with each identity. The device comes from the machine's root namespace, where it has an
address by which it is known. It goes back there if the sandbox's namespace ends, and the next agent finds it again by
the address that it was made with.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time

from .netlink import Link, Netlink
from .network import ADDRESS, GATEWAY, PREFIX, NetworkSockets, set_up
from .nic_settings import Settings, SettingsFile

BOOT_MAC = bytes.fromhex("02ca5e000001")
"""The device's address while a machine boots: the hypervisor's `BOOT_MAC`."""

_NAME = "eth0"
_OWN = "user0"
"""The agent's device, where the machine has one that gets the usual name."""
_IPV6_OFF = f"/proc/sys/net/ipv6/conf/{_NAME}/disable_ipv6"
_BACK_S = 10.0
_BACK_POLL_S = 0.05


def connect(outside: Netlink, file: SettingsFile | None) -> tuple[NetworkSockets | None, Uplink | None]:
    """Make the ways out of the sandbox, in whose network namespace the calling process is.

    To be called before the root changes.

    Args:
        outside: A socket in the machine's root namespace.
        file: Keeps the device's settings.

    Returns:
        The agent's ends, if the kernel can do without the machine's device, and the choice, if there is one.

    Raises:
        OSError: The machine's device cannot be moved into the sandbox.
    """
    restarted = file is not None and file.exists()
    nic = _find(outside, wait=restarted)
    if nic is None:
        return set_up(_NAME), None
    inside = Netlink()
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        outside.move(nic.index, namespace)
    finally:
        os.close(namespace)
    moved = _find(inside, wait=True)
    if moved is None:
        raise OSError(0, f"the network device {nic.name} is not in the sandbox")
    inside.rename(moved.index, _NAME)
    # Only what has an IPv4 address of the host's network gets further than the tap.
    with contextlib.suppress(FileNotFoundError), open(_IPV6_OFF, "w") as setting:
        setting.write("1")
    sockets = set_up(_OWN)
    own = next((link.index for link in inside.links() if link.name == _OWN), 0)
    uplink = Uplink(inside, moved.index, own, file)
    uplink.use(file.read() if file is not None and restarted else None)
    return sockets, uplink


class Uplink:
    """The ways out of a sandbox.

    Args:
        netlink: A socket in the sandbox's network namespace.
        nic: The index of the machine's device there.
        own: The index of the agent's device; 0 if it could not be made.
        file: Keeps the settings.
    """

    def __init__(self, netlink: Netlink, nic: int, own: int, file: SettingsFile | None) -> None:
        self._netlink = netlink
        self._nic = nic
        self._own = own
        self._file = file

    def use(self, settings: Settings | None) -> dict[str, str]:
        """Use the machine's device with these settings, or the agent's without, and return what `read` then finds.

        Raises:
            OSError: The kernel refuses; root in the sandbox may have moved the device away.
        """
        if settings is None:
            self._use_own()
        elif self.read() != settings.texts():
            self._use_nic(settings)
        if self._file is not None:
            self._file.write(settings)
        return self.read()

    def read(self) -> dict[str, str]:
        """Read the settings of the machine's device back from the kernel; empty if it is not in use."""
        link = self._link()
        addresses = self._netlink.addresses(self._nic)
        gateway = self._netlink.gateway(self._nic)
        if not (link.up and addresses and gateway):
            return {}
        address, prefix = addresses[0]
        return Settings(mac=link.mac, address=address, prefix=prefix, gateway=gateway).texts()

    def _use_nic(self, settings: Settings) -> None:
        netlink, nic = self._netlink, self._nic
        if self._own:
            with contextlib.suppress(OSError):  # root in the sandbox has removed it
                netlink.set_up(self._own, up=False)
        # What root in the sandbox has changed, and the routes and neighbours of another network, must not stay.
        netlink.set_up(nic, up=False)
        while addresses := netlink.addresses(nic):
            netlink.remove_address(nic, *addresses[0])
        netlink.set_mac(nic, settings.mac)
        if self._link().name != _NAME:
            with contextlib.suppress(OSError):  # another device has the name
                netlink.rename(nic, _NAME)
        netlink.add_address(nic, settings.address, settings.prefix)
        netlink.set_up(nic, up=True)
        netlink.set_gateway(nic, settings.gateway)

    def _use_own(self) -> None:
        netlink, own = self._netlink, self._own
        netlink.set_up(self._nic, up=False)
        if not own:
            return
        try:
            netlink.set_up(own, up=True)
            address = socket.inet_pton(socket.AF_INET, ADDRESS)
            if (address, PREFIX) not in netlink.addresses(own):
                netlink.add_address(own, address, PREFIX)
            netlink.set_gateway(own, socket.inet_pton(socket.AF_INET, GATEWAY))
        except OSError as error:
            # Root in the sandbox has removed the device: without a network the sandbox is still of use.
            sys.stderr.write(f"agent: the sandbox has no network: {error}\n")

    def _link(self) -> Link:
        for link in self._netlink.links():
            if link.index == self._nic:
                return link
        raise OSError(0, "the sandbox's network device is not in its network namespace any more")


def _find(netlink: Netlink, *, wait: bool) -> Link | None:
    """Find the machine's device in the namespace of a socket; None if the machine has none.

    Args:
        netlink: The socket.
        wait: Whether there must be one, which may only be on its way back from the namespace of another sandbox.
    """
    until = time.monotonic() + _BACK_S
    while True:
        for link in netlink.links():
            if BOOT_MAC in {link.mac, link.made_with}:
                return link
        if not wait or time.monotonic() > until:
            return None
        time.sleep(_BACK_POLL_S)
