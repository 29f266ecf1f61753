"""`validate`, `inspect`, `skills` and `version`, of `casemate` and of `voidbox`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mcp_server.cli.rig import Cli, Result
from tests.runs.specs.examples import AGENT, PIPELINE, SANDBOX, WORKFLOW

pytestmark = pytest.mark.anyio

FAULTY = WORKFLOW.replace("vcpus: 1", "vcpu: 1").replace("output_step: count", "output_step: 5")


@pytest.fixture(params=["casemate", "voidbox"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Cli:
    """Both names of the commands, without any server."""
    files = {"w.yaml": WORKFLOW, "a.yml": AGENT, "p.yaml": PIPELINE, "s.json": SANDBOX, "bad.yaml": FAULTY}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return Cli(url="", key="", keys={}, cwd=tmp_path, program=request.param)


def failure(done: Result) -> list[str]:
    """The lines that a command which failed printed."""
    assert (done.status, done.out) == (1, b""), done
    return done.err.splitlines()


async def test_a_valid_spec_is_told_with_its_kind(command: Cli) -> None:
    assert (await command("validate", "--file", "w.yaml")).text == "valid: w.yaml (kind=workflow, api_version=v1)\n"
    assert (await command("validate", "--file", "s.json", "--output", "JSON")).json == {
        "valid": True,
        "file": "s.json",
        "kind": "sandbox",
        "api_version": "v1",
    }


async def test_what_a_run_would_refuse_is_a_warning_with_its_place(command: Cli) -> None:
    done = await command("validate", "--file", "a.yml")
    assert done.text == "valid: a.yml (kind=agent, api_version=v1)\n"
    lines = done.err.splitlines()
    assert (
        lines[0] == "warning: a.yml:1:7: kind: is agent, which cannot be run yet: kinds that can are workflow, sandbox"
    )
    assert "warning: a.yml:19:1: observe: has no effect: the server decides what it traces and where to" in lines
    report = (await command("validate", "--file", "a.yml", "--output", "json")).json
    assert report["valid"]
    assert [f"warning: {line}" for line in report["warnings"]] == lines


async def test_every_fault_is_an_error_with_file_line_and_column(command: Cli) -> None:
    assert failure(await command("validate", "--file", "bad.yaml")) == [
        "error: bad.yaml:9:3: sandbox.vcpu: there is no field 'vcpu' here: did you mean vcpus?",
        'error: bad.yaml:27:16: workflow.output_step: must be a text, got 5: write it in quotes, "5"',
    ]


async def test_faults_are_json_for_programs(command: Cli) -> None:
    (line,) = failure(await command("validate", "--file", "bad.yaml", "--output", "json"))
    error = json.loads(line)["error"]
    assert (error["code"], error["file"]) == ("INVALID_SPEC", "bad.yaml")
    assert error["faults"][0] == {
        "line": 9,
        "column": 3,
        "path": "sandbox.vcpu",
        "message": "there is no field 'vcpu' here: did you mean vcpus?",
    }
    assert error["message"].count("bad.yaml:") == 2


@pytest.mark.parametrize("name", ["inspect", "skills", "run"])
async def test_every_command_refuses_a_file_with_faults(command: Cli, name: str) -> None:
    assert failure(await command(name, "--file", "bad.yaml"))[0].startswith("error: bad.yaml:9:3: sandbox.vcpu: ")
    assert failure(await command(name, "--file", ".")) == ["error: .: is a directory: give a spec file"]


async def test_untrusted_text_of_a_spec_cannot_control_the_terminal(command: Cli) -> None:
    (command.cwd / "evil.json").write_text('{"kind": "sandbox", "name": "x", "\\u001b[2J\\u202e": 1}')
    (line,) = failure(await command("validate", "--file", "evil.json"))
    assert line.isprintable()


async def test_a_spec_is_inspected_with_its_defaults(command: Cli) -> None:
    assert (await command("inspect", "--file", "w.yaml")).json == {
        "file": "w.yaml",
        "name": "count-files",
        "kind": "workflow",
        "api_version": "v1",
        "sandbox": {
            "mode": "auto",
            "kernel": None,
            "initramfs": None,
            "memory_mb": 256,
            "vcpus": 1,
            "network": False,
            "image": None,
            "snapshot": None,
            "mounts": 0,
            "env_vars": 2,
        },
    }
    assert (await command("inspect", "--file", "a.yml")).json["sandbox"]["mounts"] == 2


async def test_skills_are_listed_with_their_source(command: Cli) -> None:
    assert (await command("skills", "--file", "p.yaml")).text == "pipeline:left  file:left.md\n"
    assert (await command("skills", "--file", "p.yaml", "--output", "json")).json == [
        {"source": "pipeline:left", "value": "file:left.md"}
    ]
    assert (await command("skills", "--file", "w.yaml")).text == "No skills defined.\n"
    assert (await command("skills", "--file", "w.yaml", "--output", "json")).json == []


async def test_the_version_is_told(command: Cli) -> None:
    assert (await command("version")).text.startswith("casemate 0.")
    found = (await command("version", "--output", "json")).json
    assert found.keys() == {"version", "name"}


async def test_wrong_usage_is_status_2(command: Cli) -> None:
    done = await command("validate", "--file", "w.yaml", "--output", "xml")
    assert done.status == 2
    assert "unknown output format 'xml', expected" in done.err
    assert (await command("validate")).status == 2


async def test_voidboxs_options_go_before_the_command_too(command: Cli) -> None:
    voidbox = replace(command, program="voidbox")
    assert (await voidbox("--output", "json", "--no-banner", "--log-level", "debug", "version")).json[
        "name"
    ] == "casemate"
    assert (await voidbox("--output", "json", "version", "--output", "human")).text.startswith("casemate ")
    assert (await voidbox("sandbox")).status == 2
