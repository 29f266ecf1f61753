"""The sandbox's way out: a device without a wire, and rules that hand what leaves it to the agent.

The sandbox's network namespace has a dummy device with the default route. nftables redirects every outgoing TCP
connection, and every DNS query whatever server it names, to the agent's sockets in that namespace; anything else that
would leave is rejected at once. The server decides outside the guest what becomes of each connection: what root in the
sandbox changes here takes away its own network and nothing more.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from dataclasses import dataclass

ADDRESS, PREFIX = "10.41.0.2", 24
"""The device's address, with the length of its network's prefix."""
GATEWAY = "10.41.0.1"
"""Where the device's default route leads to."""

_BACKLOG = 512
_ORIGINAL_DESTINATION = 80
"""SO_ORIGINAL_DST of linux/netfilter_ipv4.h."""
_IP_PKTINFO = 8
_SOCKADDR = struct.Struct("!2xH4s8x")

# `ip daddr 127.0.0.0/8` in the last chain is what the first has redirected: the name of the device is still the old
# one there. Containers inside the sandbox come through `prerouting`; those that another device leads on are let go.
_SETUP = f"""
set -e
ip link add %(device)s type dummy
echo 1 > /proc/sys/net/ipv6/conf/%(device)s/disable_ipv6
ip addr add {ADDRESS}/{PREFIX} dev %(device)s
ip link set %(device)s up
ip route add default via {GATEWAY} dev %(device)s
nft -f - <<RULES
table ip casemate {{
    chain output {{
        type nat hook output priority -100; policy accept;
        oifname != "%(device)s" accept
        meta l4proto tcp redirect to :%(port)d
        udp dport 53 redirect to :%(port)d
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local accept
        fib daddr oifname != "%(device)s" accept
        meta l4proto tcp redirect to :%(port)d
        udp dport 53 redirect to :%(port)d
    }}
    chain rejected {{
        type filter hook output priority filter; policy accept;
        ip daddr 127.0.0.0/8 accept
        oifname "%(device)s" reject with icmp admin-prohibited
    }}
}}
RULES
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSockets:
    """The agent's ends in the sandbox's network namespace.

    Attributes:
        tcp: Accepts the connections that leave the sandbox.
        udp: Receives its DNS queries.
        port: The port of both.
    """

    tcp: socket.socket
    udp: socket.socket
    port: int


def set_up(device: str) -> NetworkSockets | None:
    """Make the device, the rules and the sockets in the network namespace of the calling process.

    To be called before the root changes, since the programs for it are in the toolbox. None, with the reason on the
    console, where the kernel cannot do it: the sandbox then has no network, or only that of the machine's own device.

    Args:
        device: The name of the device to make.
    """
    try:
        tcp = socket.create_server(("0.0.0.0", 0), backlog=_BACKLOG)  # noqa: S104 (in the sandbox's own namespace)
        port = tcp.getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        udp.bind(("0.0.0.0", port))  # noqa: S104
        # What is readable may be gone again when it is read: the one thread for all must not wait for it.
        tcp.setblocking(False)
        udp.setblocking(False)
        _run(_SETUP % {"port": port, "device": device})
    except OSError as error:
        sys.stderr.write(f"agent: the sandbox has no network: {error}\n")
        return None
    return NetworkSockets(tcp=tcp, udp=udp, port=port)


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Return where a redirected connection was going.

    Raises:
        OSError: It was not redirected.
    """
    port, address = _SOCKADDR.unpack(sock.getsockopt(socket.IPPROTO_IP, _ORIGINAL_DESTINATION, _SOCKADDR.size))
    return socket.inet_ntoa(address), port


def receive_query(udp: socket.socket) -> tuple[bytes, bytes, tuple[str, int]]:
    """Receive a DNS query: the message, the address that it came to (packed), and the sender."""
    message, controls, _, sender = udp.recvmsg(65535, 128)
    local = b"\0\0\0\0"
    for level, kind, data in controls:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            local = bytes(data[8:12])
    return message, local, sender


def send_answer(udp: socket.socket, message: bytes, local: bytes, sender: tuple[str, int]) -> None:
    """Answer a DNS query from the address that it came to: the kernel would choose another, and drop it as unknown."""
    control = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4s", 0, local, b"\0\0\0\0"))
    udp.sendmsg([message], [control], 0, sender)


def _run(script: str) -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"})
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(0, f"its rules cannot be made: status {os.waitstatus_to_exitcode(status)}")
