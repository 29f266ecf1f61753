"""The Dockerfile and the systemd units agree with the rest of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mcp_server.settings import Settings
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
UNITS = ("casemate.service", "casemate-images.service")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def instructions() -> list[str]:
    lines = re.sub(r"\\\n", " ", text("Dockerfile")).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def test_the_container_has_the_packages_that_setup_installs() -> None:
    found = re.search(r'^packages="(.+)"$', text("scripts/setup"), re.MULTILINE)
    assert found is not None
    installed = next(line for line in instructions() if "apt-get install" in line)
    assert set(found[1].split()) <= set(installed.split())


def test_the_container_copies_the_packages_of_the_project_and_nothing_secret() -> None:
    copied = {name for line in instructions() if line.startswith("COPY ") for name in line.split()[1:-1]}
    found = re.search(r"^include = \[(.+)\]$", text("pyproject.toml"), re.MULTILINE)
    assert found is not None
    packages = {name.strip(' "*') for name in found[1].split(",")}
    others = {"pyproject.toml", "README.md", "LICENSE", "requirements-otel.lock", "deploy/compose/start.sh"}
    assert copied == packages | others
    allowed = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert allowed == copied


def test_the_container_runs_as_a_plain_user_on_debian_with_pinned_packages() -> None:
    lines = instructions()
    assert lines[0] == "FROM debian:bookworm-slim"
    assert "USER casemate" in lines
    assert any("--require-hashes" in line for line in lines)
    assert any("/ready" in line for line in lines if line.startswith("HEALTHCHECK"))


def test_the_settings_of_the_container_are_settings() -> None:
    (line,) = [line for line in instructions() if line.startswith("ENV ")]
    environ = dict(pair.split("=", 1) for pair in line.split()[1:])
    reading = Settings.read(environ)
    assert reading.warnings == ()
    assert reading.settings.port == 8080
    assert reading.settings.registration_policy == "closed"


def test_a_clean_stop_and_refused_settings_do_not_restart_the_service() -> None:
    unit = text(f"deploy/{UNITS[0]}").splitlines()
    for line in ("KillMode=process", "RestartPreventExitStatus=2", "User=casemate", "NoNewPrivileges=yes"):
        assert line in unit


def test_images_are_built_where_privileges_may_still_be_gained() -> None:
    unit = text(f"deploy/{UNITS[1]}")
    implies = ("NoNewPrivileges", "SystemCall", "Restrict", "ProtectKernel", "ProtectClock", "PrivateDevices", "Lock")
    assert not [line for line in unit.splitlines() if line.startswith(implies)]


def test_the_service_has_no_capability_unless_taps_are_installed() -> None:
    assert "CapabilityBoundingSet=" in text(f"deploy/{UNITS[0]}").splitlines()
    drop_in = text("deploy/casemate-taps.conf").splitlines()
    assert [line for line in drop_in if "Capabilit" in line] == [
        "AmbientCapabilities=CAP_NET_ADMIN",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for name in UNITS:
        installed = text(f"deploy/{name}").replace("/opt/casemate/.venv/bin/casemate", "/bin/true")
        (tmp_path / name).write_text(installed)
    drop_in = text("deploy/casemate-taps.conf").replace("/opt/casemate/.venv/bin/casemate", "/bin/true")
    (tmp_path / f"{UNITS[0]}.d").mkdir()
    (tmp_path / f"{UNITS[0]}.d" / "taps.conf").write_text(drop_in)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / name for name in UNITS)],
        env={"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_of_variables_names_every_setting_and_no_other() -> None:
    rows = [line.split(" | ")[0] for line in text("docs/operations.md").splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    assert named == {name.upper() for name in Settings.model_fields}
