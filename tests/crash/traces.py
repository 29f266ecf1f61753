"""What the kernel knows of the networks of sandboxes, in the network namespace of the calling thread."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.crash.serving import SETTINGS

HELD = ("taps", "ports of the bridge", "neighbours", "bound")
"""What every sandbox that runs has, and no other."""
OPENED = "opened"
"""Sandboxes for which the kernel forwards something by itself."""
PASSING = ("counted", "connections")
"""What comes and goes with the packets of sandboxes that run."""

_SETS = {
    "bindings": "bound",
    **dict.fromkeys(("internet", "networks", "ports", "portless"), OPENED),
    **dict.fromkeys(("counted", "asked", "logged"), "counted"),
}
_TIME_WAIT = "06"  # net/tcp_states.h
_FIRST = ".".join(str(SETTINGS.gateway.network).split(".")[:2])
_PORT = re.compile(r"(dport|redirect to) :?\d+")
_ADDRESS = re.compile(rf"\b{re.escape(_FIRST)}\.\d+\.\d+\b")


def of_sandboxes() -> dict[str, set[str]]:
    """Tell of which sandboxes there is something, by their addresses."""
    bridge = SETTINGS.bridge
    found: dict[str, set[str]] = {kind: set() for kind in (*HELD, OPENED, *PASSING)}
    found["taps"] |= _devices("type", "tun")
    found["ports of the bridge"] |= _devices("master", bridge)
    found["neighbours"] |= set(_ADDRESS.findall(_command("ip", "neigh", "show", "dev", bridge, "nud", "permanent")))
    for entry in json.loads(_command("nft", "--json", "list", "ruleset"))["nftables"]:
        if (kind := _SETS.get(entry.get("set", {}).get("name", ""))) is not None:
            found[kind] |= {_ADDRESS.findall(json.dumps(element))[0] for element in entry["set"].get("elem", ())}
    tracked = Path("/proc/thread-self/net/nf_conntrack").read_text()
    own = str(SETTINGS.gateway.ip)
    found["connections"] |= {place for place in _ADDRESS.findall(tracked) if place != own}
    return found


def rules() -> str:
    """Tell the rules, without what is in their sets, and without ports: each server has others."""
    return _PORT.sub(r"\1 any", _command("nft", "--stateless", "--terse", "list", "ruleset"))


def sockets() -> list[str]:
    """List the sockets of TCP and UDP, without those that the kernel keeps for a while after their end."""
    found = [
        line for kind in ("tcp", "udp") for line in Path(f"/proc/thread-self/net/{kind}").read_text().splitlines()[1:]
    ]
    return [line for line in found if line.split()[3] != _TIME_WAIT]


def _devices(*which: str) -> set[str]:
    """List the addresses that belong to devices."""
    names = {link["ifname"] for link in json.loads(_command("ip", "-json", "link", "show", *which)) if link}
    network = SETTINGS.gateway.network
    numbers = {int(name.removeprefix(SETTINGS.prefix), 16) for name in names}
    return {str(network[number]) for number in numbers}


def _command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
