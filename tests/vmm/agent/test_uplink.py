"""The two ways out of a sandbox, in a network namespace of this host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.vmm.agent.uplink_world import FIRST, SECOND
from tests.waiting import PATIENCE_S

UNSHARE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
TO_AGENT, AWAY = {"sandbox": True, "container": True}, {"sandbox": False, "container": False}
Script = Callable[..., Any]


def lacking() -> str:
    """Why this host cannot have such a world: it needs pairs of devices and nft's rules."""
    needs = "ip link add v0 type veth peer name v1 && ip link add b0 type bridge && nft add table ip t"
    try:
        done = subprocess.run([*UNSHARE, "sh", "-c", needs], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return "unshare is not installed"
    return done.stderr.strip() or ("nft" if done.returncode else "")


@pytest.fixture(scope="module")
def world() -> Script:
    if why := lacking():
        pytest.skip(f"No network namespace: {why}")

    def run(*arguments: str) -> Any:
        command = [*UNSHARE, sys.executable, "-m", "tests.vmm.agent.uplink_world", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def found(world: Script, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return world(str(tmp_path_factory.mktemp("settings")))


def test_a_machine_without_a_device_has_the_agents_under_the_usual_name(world: Script) -> None:
    found = world()
    assert found["started"]["up"] == {"eth0": ["10.41.0.2/24"]}
    assert found["started"]["routes"] == ["default via 10.41.0.1 dev eth0"]
    assert found["started"]["comes to the agent"] == TO_AGENT


def test_a_device_is_moved_into_the_sandbox_and_waits_there(found: Any) -> None:
    assert "wire" not in found["outside"]
    assert found["started"]["up"] == {"user0": ["10.41.0.2/24"]}
    assert found["started"]["routes"] == ["default via 10.41.0.1 dev user0"]
    assert found["started"]["comes to the agent"] == TO_AGENT


def test_in_use_it_has_what_it_was_given_and_nothing_comes_to_the_agent(found: Any) -> None:
    proof, seen = found["first"]
    assert proof == FIRST
    assert seen["up"] == {"eth0": [FIRST["address"]]}
    assert seen["mac"] == [FIRST["mac"]]
    assert seen["routes"] == [f"default via {FIRST['gateway']} dev eth0"]
    assert seen["comes to the agent"] == AWAY


def test_nothing_stays_of_what_root_in_the_sandbox_did_to_it(found: Any) -> None:
    proof, seen = found["second"]
    assert proof == SECOND
    assert seen["up"] == {"eth0": [SECOND["address"]]}
    assert seen["routes"] == [f"default via {SECOND['gateway']} dev eth0"]


@pytest.mark.parametrize("stage", ["own", "repaired"])
def test_the_agents_device_takes_over_whatever_root_did_to_it(found: Any, stage: str) -> None:
    proof, seen = found[stage]
    assert proof == {}
    assert seen["up"] == {"user0": ["10.41.0.2/24"]}
    assert seen["routes"] == ["default via 10.41.0.1 dev user0"]
    assert seen["comes to the agent"] == TO_AGENT


def test_without_the_agents_device_the_machines_still_works(found: Any) -> None:
    assert found["removed"] == {}
    assert found["back"] == FIRST


def test_the_settings_are_kept_for_the_next_agent(found: Any) -> None:
    assert found["kept"] == FIRST


def test_a_device_that_root_took_away_is_told(found: Any) -> None:
    assert "not in its network namespace" in found["gone"]
