"""What `docker compose` makes of our files, and what must not be in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.kvm.yml")
SECRETS = {"mongo-uri", "mongo-password", "mongo-root-password", "metrics-token"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of a checkout that Compose and the script for its secrets look at."""
    for name in (*FILES, "scripts/compose-secrets", "deploy/mongo/user.js"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return tmp_path


def run(project: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(project)} | variables
    return subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def make_secrets(project: Path, *arguments: str) -> None:
    done = run(project, "scripts/compose-secrets", *arguments)
    assert done.returncode == 0, done.stderr


def dotenv(project: Path) -> dict[str, str]:
    lines = (project / ".env").read_text().splitlines()
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def _compose() -> tuple[str, ...] | None:
    """Compose as a plug-in, as version 2 alone, or version 1."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]):
            asked = subprocess.run([*command, "version"], capture_output=True, timeout=PATIENCE_S, check=False)
            if asked.returncode == 0:
                return command
    return None


COMPOSE = _compose()
with_compose = pytest.mark.skipif(COMPOSE is None, reason="docker compose is not installed")


def config(project: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    assert COMPOSE is not None
    return run(project, *COMPOSE, "config", *options, **variables)


@with_compose
def test_compose_refuses_to_start_without_generated_secrets(project: Path) -> None:
    done = config(project)
    assert done.returncode != 0
    assert "run scripts/compose-secrets first" in done.stderr


@with_compose
def test_compose_accepts_the_files_with_their_secrets(project: Path) -> None:
    make_secrets(project)
    done = config(project)
    assert done.returncode == 0, done.stderr
    assert "/dev/kvm" not in config(project, COMPOSE_FILE=FILES[0]).stdout


@with_compose
def test_the_device_is_passed_to_the_server_with_its_group(project: Path) -> None:
    make_secrets(project)
    both = ":".join(FILES)
    assert "KVM_GID" in config(project, COMPOSE_FILE=both, KVM_GID="").stderr
    done = config(project, COMPOSE_FILE=both, KVM_GID="105")
    assert done.returncode == 0, done.stderr
    assert "/dev/kvm" in done.stdout
    assert "105" in done.stdout


@with_compose
def test_compose_sees_one_open_port_health_checks_and_no_secret(project: Path) -> None:
    make_secrets(project)
    done = config(project, "--format", "json")
    if not done.stdout.startswith("{"):
        pytest.skip("this Compose is version 1, which does not write JSON")
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    assert set(services) == {"casemate", "mongo"}
    (port,) = services["casemate"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8080", 8080)
    assert "ports" not in services["mongo"]
    assert "/ready" in services["casemate"]["healthcheck"]["test"][-1]
    assert "ping" in services["mongo"]["healthcheck"]["test"][-1]
    assert services["casemate"]["depends_on"]["mongo"]["condition"] == "service_healthy"
    assert services["casemate"]["cap_drop"] == ["ALL"]
    for name in SECRETS:
        assert (project / "secrets" / name).read_text().strip() not in done.stdout


def test_no_file_holds_a_password_and_both_services_are_checked() -> None:
    text = "".join((ROOT / name).read_text() for name in FILES)
    for line in text.splitlines():
        name, _, value = line.partition("#")[0].partition(": ")
        if re.search(r"(?i)password|secret|token|uri|file", name):
            value = value.strip()
            assert not value or value.startswith(("/run/secrets/", "${CASEMATE_SECRETS:?")), line
    assert text.count("healthcheck:") == 2
    assert text.count(":8080:8080") == text.count("${CASEMATE_PUBLISH:-127.0.0.1}:8080:8080") == 1
    assert "mongodb://" not in text


def test_secrets_are_long_random_and_behind_a_closed_door(project: Path) -> None:
    make_secrets(project)
    place = project / "secrets"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((project / ".env").stat().st_mode) == 0o600
    assert {path.name for path in place.iterdir()} == SECRETS | {".gitignore"}
    texts = {name: (place / name).read_text().strip() for name in SECRETS}
    assert len(set(texts.values())) == len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{64}", texts[name]) for name in SECRETS - {"mongo-uri"})
    assert texts["mongo-uri"] == f"mongodb://casemate:{texts['mongo-password']}@mongo:27017/casemate"
    # Containers have users of their own: each file is mounted alone, and must be readable there.
    assert all(stat.S_IMODE((place / name).stat().st_mode) == 0o644 for name in SECRETS)
    assert not any(text in (project / ".env").read_text() for text in texts.values())


def test_making_secrets_twice_changes_nothing_and_keeps_what_others_wrote(project: Path) -> None:
    (project / ".env").write_text("CASEMATE_PUBLISH=192.0.2.7\nCASEMATE_SECRETS=/old\n")
    make_secrets(project)
    files = [project / ".env", *(project / "secrets").iterdir()]
    before = {path: path.read_bytes() for path in files}
    make_secrets(project)
    assert {path: path.read_bytes() for path in files} == before
    assert dotenv(project)["CASEMATE_PUBLISH"] == "192.0.2.7"
    assert dotenv(project)["CASEMATE_SECRETS"] == str(project / "secrets")


def test_an_interrupted_run_is_finished_by_the_next(project: Path) -> None:
    make_secrets(project)
    kept = (project / "secrets" / "mongo-password").read_text()
    (project / "secrets" / "metrics-token").write_text("")
    (project / "secrets" / "mongo-uri").unlink()
    make_secrets(project)
    assert (project / "secrets" / "metrics-token").read_text()
    assert kept.strip() in (project / "secrets" / "mongo-uri").read_text()


def test_secrets_may_lie_elsewhere(project: Path) -> None:
    make_secrets(project, str(project / "a place"))
    assert dotenv(project)["CASEMATE_SECRETS"] == str(project / "a place")
    if COMPOSE is not None:
        assert config(project).returncode == 0
