"""What a sandbox reaches among real hosts: two names on one address, a neighbour, a cloud's metadata, the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.waiting import PATIENCE_S

UNSHARE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]


def lacking() -> str:
    try:
        done = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return "unshare is not installed"
    return done.stderr.strip()


@pytest.fixture(scope="module")
def found() -> Any:
    if why := lacking():
        pytest.skip(f"No network namespace: {why}")
    command = [*UNSHARE, sys.executable, "-m", "tests.vmm.network.world_of_its_own"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_internet_is_reached_and_nothing_that_leads_inwards(found: Any) -> None:
    assert found["reached"]["internet"] == {
        "web": "reached",
        "web's other name": "reached",
        "web over http": "reached",
        "nothing listens": "not reachable: connection refused",
        "neighbour": "private address 10.0.0.5",
        "metadata": "link-local address 169.254.169.254",
        "own": "address 192.0.2.1 of the host",
        "away": "not reachable: no route to it",
        "nowhere": "not reachable: no route to it",
    }


def test_an_allowed_name_is_reached_and_its_neighbour_is_not(found: Any) -> None:
    assert found["reached"]["example.com"] == {
        "web": "reached",
        "web's other name": 'policy "allow"',
        "web over http": "reached",
        "nothing listens": "not reachable: connection refused",
        "neighbour": "private address 10.0.0.5",
        "metadata": "link-local address 169.254.169.254",
        "own": "address 192.0.2.1 of the host",
        "away": "not reachable: no route to it",
        "nowhere": "not reachable: no route to it",
    }


def test_no_connection_arrived_where_none_may(found: Any) -> None:
    assert found["accepted"] == ["198.51.100.10"]


def test_the_hosts_addresses_are_those_of_its_devices(found: Any) -> None:
    assert found["own"] == ["10.0.0.5", "127.0.0.1", "169.254.169.254", "192.0.2.1", "198.51.100.10"]
