"""Frames as a guest sends them, whether it should or not.

Source: IEEE 802.1Q, RFC 826 (ARP), RFC 791 (IPv4), RFC 768 (UDP), RFC 9293 (TCP), RFC 792 (ICMP), virtio 1.2, 5.1.6.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

VNET = bytes(10)
"""The header of virtio before each frame: nothing is left to do for the receiver."""
BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100


def ethernet(to: str, source: str, kind: int, payload: bytes, *, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else struct.pack("!HH", VLAN, vlan)
    return _mac(to) + _mac(source) + tag + struct.pack("!H", kind) + payload.ljust(46, b"\0")


def arp(operation: int, mac: str, address: str, asked: str) -> bytes:
    """A question (1) or an answer (2) about an address."""
    sender = _mac(mac) + _ip(address)
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + sender + bytes(6) + _ip(asked)


def ipv4(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    def header(checksum: int) -> bytes:
        fields = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, checksum)
        return fields + _ip(source) + _ip(to)

    return header(_checksum(header(0))) + payload


def udp(source: str, to: str, port: int, data: bytes, *, own: int = 40000) -> bytes:
    # Without a checksum, which UDP allows.
    return ipv4(source, to, socket.IPPROTO_UDP, struct.pack("!HHHH", own, port, 8 + len(data), 0) + data)


def tcp_syn(source: str, to: str, port: int, *, own: int = 40000) -> bytes:
    def header(checksum: int) -> bytes:
        return struct.pack("!HHIIBBHHH", own, port, 1, 0, 5 << 4, 2, 64000, checksum, 0)

    pseudo = _ip(source) + _ip(to) + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20)
    return ipv4(source, to, socket.IPPROTO_TCP, header(_checksum(pseudo + header(0))))


def icmp_echo(source: str, to: str) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    return ipv4(source, to, socket.IPPROTO_ICMP, body[:2] + struct.pack("!H", _checksum(body)) + body[4:])


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ip(text: str) -> bytes:
    return IPv4Address(text).packed
