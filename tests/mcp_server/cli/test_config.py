"""`casemate config show`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

CASEMATE = Path(sys.executable).parent / "casemate"
Show = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Runs the command with the given variables and few others."""

    def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CASEMATE_DATA": str(tmp_path)} | variables
        command = [CASEMATE, "config", "show", *options]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    return run


def row(done: subprocess.CompletedProcess[str], variable: str) -> list[str]:
    """Return the value and origin of a variable."""
    assert done.returncode == 0, done
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{variable} ")]
    return line.split(maxsplit=2)[1:]


def test_each_value_is_shown_with_its_origin(show: Show) -> None:
    done = show(CASEMATE_PORT="1234", SERVER_HOST="127.0.0.2", CASEMATE_WARM="0")
    assert row(done, "CASEMATE_PORT") == ["1234", "CASEMATE_PORT"]
    assert row(done, "CASEMATE_HOST") == ["127.0.0.2", "SERVER_HOST (VoidRun)"]
    assert row(done, "CASEMATE_WARM") == ["false", "CASEMATE_WARM"]
    assert row(done, "CASEMATE_AUDIT_DAYS") == ["30", "default"]
    assert row(done, "CASEMATE_REGISTRATION")[1].startswith("(open)")
    assert done.stderr == ""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_secrets_are_never_shown(show: Show, tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2" * 8)
    done = show(
        *options,
        CASEMATE_MONGO_URI="mongodb://u:hunter2@db",
        CASEMATE_JWT_SECRET_FILE=str(file),
        API_KEYS="hunter2" * 4,
        CASEMATE_METRICS_TOKEN="hunter2" * 3,
        REDIS_PASSWORD="hunter2",
        CASEMATE_PROT="hunter2",
    )
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    assert "CASEMATE_JWT_SECRET_FILE" in done.stdout
    assert "did you mean CASEMATE_PORT?" in (done.stdout if options else done.stderr)


def test_variables_of_other_systems_without_effect_are_listed_with_the_reason(show: Show) -> None:
    done = show(REDIS_HOST="cache", CONTAINER_IMAGE="python:3.12", HOST_ID="")
    after = done.stdout.partition("Set, but without effect:")[2]
    assert "REDIS_HOST (VoidRun, sandbox-api)  Redis is not needed" in after
    assert "CONTAINER_IMAGE (sandbox-api)" in after
    assert "HOST_ID" not in after


def test_settings_are_printed_as_json(show: Show) -> None:
    report = json.loads(show("--json", CASEMATE_ALLOWED_HOSTS="a.example.org", JWT_ALGORITHM="HS256").stdout)
    settings = {entry["name"]: entry for entry in report["settings"]}
    assert settings["allowed_hosts"] == {
        "name": "allowed_hosts",
        "variable": "CASEMATE_ALLOWED_HOSTS",
        "secret": False,
        "value": ["a.example.org"],
        "origin": "CASEMATE_ALLOWED_HOSTS",
    }
    assert settings["jwt_secret"]["value"] is False
    assert report["registrationPolicy"] == "closed"
    assert [entry["variable"] for entry in report["withoutEffect"]] == ["JWT_ALGORITHM"]


def test_an_invalid_environment_fails_with_all_reasons(show: Show) -> None:
    wrong = {"CASEMATE_PORT": "x", "JWT_ALGORITHM": "none", "CASEMATE_JWT_SECRET": "hunter2"}
    done = show(**wrong)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("casemate: ") for line in lines)
    programs = show("--json", **wrong)
    assert programs.returncode == 2
    assert len(json.loads(programs.stdout)["refused"]) == 3
    assert "hunter2" not in done.stderr + programs.stdout + programs.stderr
