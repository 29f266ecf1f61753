"""Specs with a real machine, with and without a running server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.server import running
from tests.mcp_server.cli.rig import Cli
from vmm.hypervisor.process import orphans

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

SPEC = """\
kind: workflow
name: report
sandbox: {image: minimal, memory_mb: 512, network: false, env: {WORD: here}}
workflow:
  steps:
    - name: write
      run: {program: sh, args: [-c, "echo $WORD > note; hostname; seq 100000"]}
    - name: broken
      run: {program: sh, args: [-c, "echo no >&2; exit 3"]}
      retries: 1
    - name: after
      depends_on: [broken]
      run: {program: "true"}
    - name: slow
      run: {program: sh, args: [-c, "sleep 1000 & sleep 1000"]}
      timeout_secs: 1
    - name: alone
      depends_on: [write]
      run: {program: sh, args: [-c, "ls /sys/class/net; cat note; pwd; id -u"]}
    - name: count
      run: {program: wc, args: [-l], stdin_from: write}
  output_step: count
"""


async def test_a_workflow_runs_in_one_machine_that_is_gone_afterwards(served: Path, tmp_path: Path) -> None:
    cli = Cli(url="", key="", keys={}, cwd=tmp_path)
    (tmp_path / "data").symlink_to(served)
    (tmp_path / "spec.yaml").write_text(SPEC)
    async with running(served):
        found = (await cli("run", "--file", "spec.yaml", "--output", "json")).json
        assert (await cli("sandbox", "list", "--json")).json == []
    assert (found["success"], found["output"].strip()) == (True, "100001")
    states = {one["stage_name"]: one for one in found["stage_states"]}
    assert {name: (one["status"], one["stage_attempt"], one["reason"]) for name, one in states.items()} == {
        "write": ("succeeded", 1, ""),
        "broken": ("failed", 2, "exit status 3: no"),
        "after": ("skipped", 0, 'dependency "broken" failed'),
        "slow": ("failed", 1, "killed: it took longer than 1 s"),
        "alone": ("succeeded", 1, ""),
        "count": ("succeeded", 1, ""),
    }
    assert orphans(served / "instances") == {}

    (tmp_path / "spec.json").write_text(
        json.dumps(
            {
                "kind": "workflow",
                "name": "alone",
                "sandbox": {"image": "minimal", "memory_mb": 512},
                "workflow": {"steps": [{"name": "a", "run": {"program": "pwd"}}]},
            }
        )
    )
    done = await cli("run", "--file", "spec.json")  # no server runs, so it starts one
    assert done.text.endswith("output:\n/workspace\n"), done

    small = {"CASEMATE_DEFAULT_IMAGE": "minimal", "CASEMATE_DEFAULT_MEM": "512"}
    done = await cli("exec", "sh", "-c", 'pwd; echo "$1" >&2; exit 9', "-", "--not-ours", env=small)
    assert (done.status, done.out, done.err) == (9, b"/workspace\n", "--not-ours\n")
    assert orphans(served / "instances") == {}
