"""What the kernel forwards and refuses by itself, as its rules log it: read over netlink, one event for each packet.

Source: linux/netfilter/nfnetlink.h, nfnetlink_log.h (NFLOG), RFC 791 (IPv4).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

import anyio
import structlog
from anyio.lowlevel import checkpoint

from ...errors import Unavailable

log = structlog.get_logger(__name__)

GROUP = 0xCA5E
"""The number under which the rules log (`log group`)."""
ALLOWED, REFUSED, LIMITED = "allowed", "refused", "limited"
"""What the rules' prefixes are; the last is a refusal because a sandbox has too many connections."""

_NETFILTER = 12  # NETLINK_NETFILTER
_PACKET, _CONFIG = 4 << 8, 4 << 8 | 1  # of the subsystem NFNL_SUBSYS_ULOG
_ERROR = 2  # NLMSG_ERROR
_REQUEST_ACK = 1 | 4  # NLM_F_REQUEST, NLM_F_ACK
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT, _CFG_QTHRESH = 1, 2, 4, 5
_BIND, _COPY_PACKET = 1, 2
_PAYLOAD, _PREFIX = 9, 10
_TYPE = 0x3FFF  # of an attribute, without its flags

_MESSAGE = struct.Struct("=LHHLL")  # length, type, flags, sequence, port
_FAMILY = struct.Struct("=BB2s")  # of the packet, version, group
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_CODE = struct.Struct("=l")  # of an error, negative; 0 if all is well

# The longest header of IPv4, and the ports behind it.
_COPIED = 64
_MOST = 64 * 1024
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 132: "sctp"}
_WITH_PORTS = frozenset({"tcp", "udp", "dccp", "sctp"})
_BREATH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvent:
    """A packet that a rule logged.

    Attributes:
        prefix: What the rule says about it.
        source: Where it came from.
        destination: Where it was to go.
        protocol: "tcp", "udp", "icmp"; others by their names or numbers, such as "sctp" and "protocol-99".
        port: Of the destination; 0 if the protocol has none.
    """

    prefix: str
    source: IPv4Address
    destination: IPv4Address
    protocol: str
    port: int


class KernelLog:
    """Reads the log of one network namespace; closed at the end of a block.

    Args:
        connection: A netlink socket that is bound to the group, not blocking; closed with the log.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lost = False

    @classmethod
    def open(cls, group: int = GROUP) -> Self:
        """Begin to read; what was logged before is not seen.

        Raises:
            Unavailable: Another program reads this group, or the server lacks CAP_NET_ADMIN.
        """
        try:
            connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        except OSError as error:
            raise Unavailable(f"The kernel's log of packets cannot be read: {error.strerror}") from error
        try:
            connection.setblocking(False)
            connection.bind((0, 0))
            _ask(connection, group, _CFG_CMD, struct.pack("B", _BIND))
            _ask(connection, group, _CFG_MODE, struct.pack(">LBx", _COPIED, _COPY_PACKET))
            # Each event at once: the result of the command that met a refusal is to explain it.
            _ask(connection, group, _CFG_QTHRESH, struct.pack(">L", 1))
            _ask(connection, group, _CFG_TIMEOUT, struct.pack(">L", 1))
        except OSError as error:
            connection.close()
            raise Unavailable(
                f"The kernel's log of packets, group {group}, cannot be read: {error.strerror}",
                hint="It needs CAP_NET_ADMIN, and that no other program reads this group.",
            ) from error
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; may be repeated."""
        if self._socket.fileno() != -1:
            anyio.notify_closing(self._socket)
            self._socket.close()

    async def events(self) -> AsyncGenerator[KernelEvent]:
        """Give each event as it comes, until the log is closed; what cannot be read is passed over."""
        while True:
            await checkpoint()  # events that never run out would keep the event loop from everything else
            try:
                data = self._socket.recv(_MOST)
            except BlockingIOError:
                try:
                    await anyio.wait_readable(self._socket)
                except anyio.ClosedResourceError:
                    return
            except OSError as error:
                if self._socket.fileno() == -1:
                    return
                await self._missed(error)
            else:
                for event in parsed(data):
                    yield event

    async def _missed(self, error: OSError) -> None:
        if not self._lost:
            self._lost = True
            log.warning("events of the kernel lost, network logs of sandboxes lack them", reason=error.strerror)
        if error.errno != errno.ENOBUFS:  # which comes once for many messages, and those after them can be read
            await anyio.sleep(_BREATH_S)


def parsed(data: bytes) -> Iterator[KernelEvent]:
    """Read the events of one or more netlink messages; what is no event, or damaged, is left out."""
    while len(data) >= _MESSAGE.size:
        length, kind, _, _, _ = _MESSAGE.unpack_from(data)
        if not _MESSAGE.size <= length <= len(data):
            return
        if kind == _PACKET:
            attributes = dict(_attributes(data[_MESSAGE.size + _FAMILY.size : length]))
            prefix = attributes.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace").strip()
            event = _event(prefix, attributes.get(_PAYLOAD, b""))
            if event is not None:
                yield event
        data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _TYPE, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _event(prefix: str, packet: bytes) -> KernelEvent | None:
    """Read the headers of a packet; None if it is no whole header of IPv4."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    size = (packet[0] & 0xF) * 4
    if size < 20:
        return None
    protocol = _PROTOCOLS.get(packet[9], f"protocol-{packet[9]}")
    first = not int.from_bytes(packet[6:8], "big") & 0x1FFF  # of its fragments, which alone has the ports
    ports = packet[size : size + 4]
    port = int.from_bytes(ports[2:], "big") if protocol in _WITH_PORTS and first and len(ports) == 4 else 0
    return KernelEvent(
        prefix=prefix,
        source=IPv4Address(packet[12:16]),
        destination=IPv4Address(packet[16:20]),
        protocol=protocol,
        port=port,
    )


def _ask(connection: socket.socket, group: int, kind: int, value: bytes) -> None:
    """Configure the log, and wait for the kernel's answer, which it gives before the request returns."""
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
    attribute += bytes(_aligned(len(attribute)) - len(attribute))
    body = _FAMILY.pack(socket.AF_UNSPEC, 0, group.to_bytes(2, "big")) + attribute
    connection.send(_MESSAGE.pack(_MESSAGE.size + len(body), _CONFIG, _REQUEST_ACK, 0, 0) + body)
    while True:
        answer = connection.recv(_MOST)
        if _MESSAGE.unpack_from(answer)[1] == _ERROR:  # else it is an event already
            (code,) = _CODE.unpack_from(answer, _MESSAGE.size)
            if code:
                raise OSError(-code, os.strerror(-code))
            return


def _aligned(length: int) -> int:
    return (length + 3) & ~3
