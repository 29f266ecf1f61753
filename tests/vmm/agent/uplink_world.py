"""A sandbox's network namespace below that of its machine, and what the agent makes of it: printed as JSON.

`unshare --net python -m tests.vmm.agent.uplink_world [DIRECTORY]`. If a directory for its
settings is given, one end of a pair stands for the machine's device. A bridge without ports stands for the agent's,
since a host may lack dummy devices. Nothing is left when the process ends.
"""

from __future__ import annotations

import ctypes
import json
import select
import socket
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen, run
from typing import Any
from unittest.mock import patch

from tests.waiting import PATIENCE_S
from vmm.agent import network
from vmm.agent.netlink import Netlink
from vmm.agent.network import NetworkSockets, original_destination
from vmm.agent.nic_settings import Settings, SettingsFile
from vmm.agent.uplink import BOOT_MAC, Uplink, connect

FIRST = {"mac": "02:00:0a:29:00:07", "address": "10.41.0.7/16", "gateway": "10.41.0.1"}
SECOND = {"mac": "02:00:0a:63:01:02", "address": "10.99.1.2/24", "gateway": "10.99.1.1"}
AWAY = "198.51.100.9"
_NEW_NET = 0x40000000
_CONTAINER = "10.0.7.2"
_CONNECT = f"""
import socket
sock = socket.socket()
sock.setblocking(False)
sock.connect_ex(('{AWAY}', 80))
print(flush=True)
input()
"""


def main(directory: Path | None) -> None:
    if directory is not None:
        ip(f"link add wire address {BOOT_MAC.hex(':')} type veth peer name other", "link set other up")
    outside = Netlink()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace")
    ip("link set lo up")
    file = None if directory is None else SettingsFile(str(directory))
    with patch("vmm.agent.network._SETUP", network._SETUP.replace("type dummy", "type bridge")):  # pyright: ignore[reportPrivateUsage]
        sockets, uplink = connect(outside, file)
    assert sockets is not None
    found: dict[str, Any] = {"started": seen(sockets, own=True), "outside": [link.name for link in outside.links()]}
    if uplink is not None and file is not None:
        found |= tried(uplink, sockets)
        kept = file.read()
        found["kept"] = None if kept is None else kept.texts()
        ip("link del eth0")
        try:
            uplink.use(given(FIRST))
        except OSError as error:
            found["gone"] = str(error)
    print(json.dumps(found))


def tried(uplink: Uplink, sockets: NetworkSockets) -> dict[str, Any]:
    """Do what a host and root in the sandbox may do."""
    found: dict[str, Any] = {"first": [uplink.use(given(FIRST)), seen(sockets, own=False)]}
    ip("addr add 192.0.2.7/24 dev eth0", "route add 198.51.100.0/24 via 10.41.0.9", "link set eth0 down")
    ip("link set eth0 name mine", "link set mine up")
    found["second"] = [uplink.use(given(SECOND)), seen(sockets, own=False)]
    found["own"] = [uplink.use(None), seen(sockets, own=True)]
    ip("addr flush dev user0")
    found["repaired"] = [uplink.use(None), seen(sockets, own=True)]
    ip("link del user0")
    found["removed"] = uplink.use(None)
    found["back"] = uplink.use(given(FIRST))
    return found


def seen(sockets: NetworkSockets, *, own: bool) -> dict[str, Any]:
    """What a program in the sandbox sees of its network, and which connections come to the agent.

    Args:
        sockets: The agent's.
        own: Whether they should come, and are waited for.
    """
    links = json.loads(ip("-j addr"))
    up = [link for link in links if "UP" in link["flags"] and not link["ifname"].startswith(("lo", "c0"))]
    with container():
        caught = {
            "sandbox": comes(sockets, own_connection(), own=own),
            "container": comes(sockets, containers_connection(), own=own),
        }
    return {
        "up": {
            link["ifname"]: [f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]] for link in up
        },
        "mac": [link["address"] for link in up],
        "routes": [_route(line) for line in ip("-4 route").splitlines() if "kernel" not in line],
        "comes to the agent": caught,
    }


def _route(line: str) -> str:
    return " ".join(word for word in line.split() if word != "onlink")


def comes(sockets: NetworkSockets, connection: AbstractContextManager[None], *, own: bool) -> bool:
    with connection:
        if not select.select([sockets.tcp], [], [], PATIENCE_S if own else 0)[0]:
            return False
        accepted, _ = sockets.tcp.accept()
        with accepted:
            return original_destination(accepted) == (AWAY, 80)


_containers: list[Popen[bytes]] = []


@contextmanager
def container() -> Generator[None]:
    """A network namespace behind the sandbox's, as Docker makes them, for the length of a block."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with Popen(["unshare", "--net", "sh", "-c", "echo; read line"], stdin=PIPE, stdout=PIPE) as inner:
        assert inner.stdout is not None
        inner.stdout.readline()
        _containers.append(inner)
        ip("link add c0 type veth peer name c1", f"link set c1 netns {inner.pid}", "addr add 10.0.7.1/24 dev c0")
        ip("link set c0 up")
        for line in (f"addr add {_CONTAINER}/24 dev c1", "link set c1 up", "route add default via 10.0.7.1"):
            run([*within(inner), "ip", *line.split()], check=True)
        try:
            yield
        finally:
            ip("link del c0")
            inner.communicate(b"\n")
            _containers.pop()


def within(inner: Popen[bytes]) -> list[str]:
    return ["nsenter", f"--net=/proc/{inner.pid}/ns/net"]


@contextmanager
def own_connection() -> Generator[None]:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex((AWAY, 80))
        yield


@contextmanager
def containers_connection() -> Generator[None]:
    with Popen([*within(_containers[-1]), sys.executable, "-c", _CONNECT], stdin=PIPE, stdout=PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        yield
        program.communicate(b"\n")


def given(texts: dict[str, str]) -> Settings | None:
    return Settings.of({name.encode(): value.encode() for name, value in texts.items()})


def ip(*commands: str) -> str:
    outputs = [run(["ip", *line.split()], check=True, stdout=PIPE, text=True).stdout for line in commands]
    return outputs[-1]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
