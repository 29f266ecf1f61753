"""`casemate network up`, `down` and `status`, each in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.server import casemate
from tests.waiting import PATIENCE_S

_UNSHARE = ("unshare", "--net")
MAY = os.geteuid() == 0 and subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0

pytestmark = [
    pytest.mark.skipif(not MAY, reason="only root has network namespaces"),
    pytest.mark.skipif(shutil.which("nft", path="/usr/sbin:/sbin") is None, reason="nft is not installed"),
]


def shell(script: str, data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh network namespace, in which `network` is the command."""
    # At first, forwarding is as the host's.
    text = f'network() {{ "{casemate()}" network "$@"; }}\necho 0 > /proc/sys/net/ipv4/ip_forward\n{script}'
    return subprocess.run(
        [*_UNSHARE, "sh", "-c", text],
        env=os.environ | {"CASEMATE_DATA": str(data)} | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def values(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """Read the JSON values that a script printed, one after the other."""
    assert done.returncode == 0, done.stderr
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), list[Any]()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


def test_up_makes_the_bridge_once_and_down_undoes_exactly_that(tmp_path: Path) -> None:
    done = shell(
        "network status --json; network up; network up; network status --json; ip -json address show casemate0;"
        "cat /proc/sys/net/ipv4/ip_forward; network down; network down; network status --json;"
        "ip -json link show; nft --json list tables; cat /proc/sys/net/ipv4/ip_forward",
        tmp_path,
    )
    before, between, (device,), forwarding, after, links, tables, still = values(done)
    down: dict[str, Any] = {"bridge": "casemate0", "address": "10.41.0.1/16", "up": False, "taps": 0, "problems": []}
    assert before == after == down
    assert between == {**down, "up": True}
    assert [(found["local"], found["prefixlen"]) for found in device["addr_info"]] == [("10.41.0.1", 16)]
    assert (forwarding, still) == (1, 0)
    assert [link["ifname"] for link in links] == ["lo"]
    assert [found for found in tables["nftables"] if "table" in found] == []


def test_forwarding_that_was_on_before_stays_on(tmp_path: Path) -> None:
    script = "echo 1 > /proc/sys/net/ipv4/ip_forward; network up; network down; cat /proc/sys/net/ipv4/ip_forward"
    assert values(shell(script, tmp_path)) == [1]


def test_the_bridge_is_the_one_that_voidruns_variables_name(tmp_path: Path) -> None:
    variables = {"BRIDGE_NAME": "vmbr0", "GATEWAY_IP": "192.168.100.1/22", "NETWORK_CIDR": "192.168.100.0/22"}
    done = shell("network up; network status --json; network down", tmp_path, **variables)
    (status,) = values(done)
    assert (status["bridge"], status["address"], status["up"]) == ("vmbr0", "192.168.100.1/22", True)


def test_a_bridge_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    script = "ip link add casemate0 type bridge; network up; network down; ip -json link show casemate0"
    done = shell(script, tmp_path)
    assert "casemate0 exists, and is not Casemate's" in done.stderr
    assert "BRIDGE_NAME" in done.stderr
    (links,) = values(done)
    assert links[0]["ifname"] == "casemate0"


def test_a_network_that_the_host_uses_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    script = (
        "ip link add lan type bridge; ip address add 10.41.7.1/24 dev lan; ip link set lan up;"
        "network up; ip -json link show"
    )
    done = shell(script, tmp_path)
    assert "NETWORK_CIDR 10.41.0.0/16 overlaps the host's route to 10.41.7.0/24 by lan" in done.stderr
    (links,) = values(done)
    assert [link["ifname"] for link in links] == ["lo", "lan"]


def test_without_the_privilege_it_says_what_it_needs(tmp_path: Path) -> None:
    done = shell(f'setpriv --bounding-set -net_admin "{casemate()}" network up', tmp_path)
    assert done.returncode == 2
    assert "CAP_NET_ADMIN" in done.stderr


def test_what_has_no_sense_is_refused_by_name(tmp_path: Path) -> None:
    done = shell("network up", tmp_path, NETWORK_CIDR="8.8.8.0/24")
    assert done.returncode == 2
    assert "NETWORK_CIDR must be a private network, got '8.8.8.0/24'" in done.stderr
