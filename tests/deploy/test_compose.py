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

from mcp_server.settings import Settings
from mcp_server.settings.names import ALIASES, VOIDRUN
from tests.mcp_server.settings.voidrun_environment import README
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.kvm.yml")
SCRIPT = "deploy/compose/secrets.sh"
SECRETS = {"mongo": {"mongo-password", "mongo-root-password"}, "casemate": {"mongo-uri", "metrics-token"}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of a checkout that Compose and its scripts look at."""
    for name in (*FILES, SCRIPT, "scripts/compose-kvm", "deploy/mongo/user.js"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    if COMPOSE == ("docker-compose",):  # version 1 refuses this one key, which came with 2.17
        compose = tmp_path / FILES[0]
        compose.write_text(compose.read_text().replace("        restart: true\n", ""))
    return tmp_path


def run(project: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    plugins = os.environ.get("DOCKER_CONFIG") or f"{Path.home()}/.docker"
    env = {"PATH": os.environ["PATH"], "HOME": str(project), "DOCKER_CONFIG": plugins} | variables
    return subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def make_secrets(project: Path) -> dict[str, str]:
    """Run the script as its service does; the secrets by name."""
    places = [project / service for service in SECRETS]
    for place in places:
        place.mkdir(exist_ok=True)
    done = run(project, SCRIPT, *map(str, places))
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text().strip() for place in places for path in place.iterdir()}


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


def described(project: Path) -> dict[str, Any]:
    """The services as Compose reads them."""
    done = config(project, "--format", "json")
    if not done.stdout.startswith("{"):
        pytest.skip("this Compose is version 1, which does not write JSON")
    return json.loads(done.stdout)["services"]


@with_compose
def test_compose_accepts_the_files_without_any_step_before(project: Path) -> None:
    done = config(project)
    assert done.returncode == 0, done.stderr
    assert "/dev/kvm" not in done.stdout


@with_compose
def test_the_device_is_passed_to_the_server_with_its_group(project: Path) -> None:
    both = ":".join(FILES)
    assert "KVM_GID" in config(project, COMPOSE_FILE=both, KVM_GID="").stderr
    done = config(project, COMPOSE_FILE=both, KVM_GID="105")
    assert done.returncode == 0, done.stderr
    assert "/dev/kvm" in done.stdout
    assert "105" in done.stdout


@with_compose
def test_voidruns_names_reach_the_server_from_the_shell_or_the_file(project: Path) -> None:
    (project / ".env").write_text("SANDBOX_DEFAULT_MEMORY_MB=2048\n")
    done = config(project, SANDBOX_DEFAULT_IMAGE="debian", JWT_SECRET="change-me-in-production")
    assert re.search(r"SANDBOX_DEFAULT_IMAGE: debian$", done.stdout, re.MULTILINE)
    assert re.search(r"JWT_SECRET: change-me-in-production$", done.stdout, re.MULTILINE)


@with_compose
def test_compose_sees_one_open_port_health_checks_and_who_waits_for_whom(project: Path) -> None:
    services = described(project)
    assert set(services) == {"casemate", "mongo", "secrets"}
    (port,) = services["casemate"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8080", 8080)
    assert "ports" not in services["mongo"]
    assert "/ready" in services["casemate"]["healthcheck"]["test"][-1]
    assert "ping" in services["mongo"]["healthcheck"]["test"][-1]
    assert services["mongo"]["depends_on"]["secrets"]["condition"] == "service_completed_successfully"
    assert services["casemate"]["depends_on"]["mongo"]["condition"] == "service_healthy"
    assert services["casemate"]["cap_drop"] == services["secrets"]["cap_drop"] == ["ALL"]


def environment_names() -> list[str]:
    """The names that the server's service lists, without those of its health check and others."""
    block = (ROOT / FILES[0]).read_text().partition("    environment:\n")[2].partition("    volumes:\n")[0]
    return re.findall(r"^      ([A-Z_]+):", block, re.MULTILINE)


def test_every_name_of_voidruns_with_an_effect_and_all_of_its_readme_are_passed_on() -> None:
    aliases = {name for names in ALIASES.values() for name, system in names if system == VOIDRUN}
    assert aliases | set(README) <= set(environment_names())


def test_voidruns_block_in_the_container_is_accepted(tmp_path: Path) -> None:
    """With what the image and docker-compose.yml set besides, which wins."""
    secret = tmp_path / "mongo-uri"
    secret.write_text("mongodb://casemate:x@mongo:27017/casemate")
    fixed = {
        "CASEMATE_DATA": "/var/lib/casemate",
        "CASEMATE_INSTANCES": "/var/lib/casemate/instances",
        "CASEMATE_IMAGES": "/opt/casemate/images",
        "CASEMATE_HOST": "0.0.0.0",  # noqa: S104 -- as in the Dockerfile
        "CASEMATE_PORT": "8080",
        "CASEMATE_ALLOWED_HOSTS": "localhost",
        "CASEMATE_MONGO_URI_FILE": str(secret),
        "CASEMATE_MONGO_DB": "casemate",
    }
    settings = Settings.read(README | fixed).settings
    assert (settings.port, settings.mongo_db, settings.default_image) == (8080, "casemate", "debian")
    assert str(settings.instances) == "/var/lib/casemate/instances"


def test_no_file_holds_a_password_and_both_services_are_checked() -> None:
    text = "".join((ROOT / name).read_text() for name in FILES)
    for line in text.splitlines():
        name, _, value = line.partition("#")[0].partition(": ")
        if re.search(r"(?i)password|secret|token|uri|file", name):
            value = value.strip()
            assert not value or value.startswith("/run/secrets/"), line
    assert text.count("healthcheck:") == 2
    assert text.count(":8080:8080") == text.count("${CASEMATE_PUBLISH:-127.0.0.1}:8080:8080") == 1
    assert "mongodb://" not in text


def blocks() -> dict[str, str]:
    """The text of each service."""
    found = re.split(r"\n  (?=[a-z]+:\n)", (ROOT / FILES[0]).read_text().partition("\nvolumes:")[0])
    return {block.partition(":")[0]: block for block in found}


def test_each_service_reads_its_own_secrets_alone() -> None:
    """By the volumes that hold them."""
    read = {name: re.findall(r"(\w+)-secrets:(/run/\w+:ro)", block) for name, block in blocks().items()}
    assert read["casemate"] == [("casemate", "/run/secrets:ro")]
    assert read["mongo"] == [("mongo", "/run/secrets:ro")]


def test_the_database_is_not_healthy_while_it_is_set_up() -> None:
    """Then it answers without a password, on the loopback alone."""
    assert '"mongosh", "--quiet", "--host", "mongo", ' in blocks()["mongo"]


def test_the_server_stops_before_its_database_is_made_anew() -> None:
    """Without the store, it cannot put machines to sleep."""
    waits = blocks()["casemate"].partition("    depends_on:\n")[2].partition("    healthcheck:\n")[0]
    assert "      mongo:\n" in waits
    assert "        restart: true\n" in waits


@pytest.mark.parametrize("service", ["mongo", "secrets"])
def test_no_volume_without_a_name_is_left_behind(service: str) -> None:
    """MongoDB's image declares two, and each container without its own gets new ones."""
    places = re.findall(r"^      - (?:mongo:)?(/data/\w+)$", blocks()[service], re.MULTILINE)
    assert sorted(places) == ["/data/configdb", "/data/db"]


def test_secrets_are_long_and_random_and_each_is_made_for_its_service(project: Path) -> None:
    texts = make_secrets(project)
    for service, names in SECRETS.items():
        assert {path.name for path in (project / service).iterdir()} == names
    assert len(set(texts.values())) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", text) for name, text in texts.items() if name != "mongo-uri")
    assert texts["mongo-uri"] == f"mongodb://casemate:{texts['mongo-password']}@mongo:27017/casemate"
    # Containers have users of their own, which must be able to read and cannot write.
    paths = [path for service in SECRETS for path in (project / service).iterdir()]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in paths)


def test_making_secrets_twice_changes_nothing(project: Path) -> None:
    assert make_secrets(project) == make_secrets(project)


def test_an_interrupted_run_is_finished_by_the_next(project: Path) -> None:
    first = make_secrets(project)
    token = project / "casemate" / "metrics-token"
    token.chmod(0o644)
    token.write_text("")
    (project / "casemate" / "mongo-uri").unlink()
    half = project / "casemate" / "mongo-uri.new"
    half.write_text("half")
    half.chmod(0o444)
    second = make_secrets(project)
    assert second["metrics-token"]
    assert {name: second[name] for name in ("mongo-password", "mongo-uri")} == {
        name: first[name] for name in ("mongo-password", "mongo-uri")
    }


def test_the_device_is_asked_for_where_it_can_be_used_and_other_lines_are_kept(project: Path) -> None:
    (project / ".env").write_text("CASEMATE_PUBLISH=192.0.2.7\nKVM_GID=7\nCOMPOSE_FILE=old\n")
    assert run(project, "scripts/compose-kvm").returncode == 0
    done = run(project, "scripts/compose-kvm")
    assert done.returncode == 0, done.stderr
    lines = (project / ".env").read_text().splitlines()
    assert lines[0] == "CASEMATE_PUBLISH=192.0.2.7"
    assert stat.S_IMODE((project / ".env").stat().st_mode) == 0o600
    if "without KVM" in done.stderr:
        assert lines[1:] == []
    else:
        assert [line.partition("=")[0] for line in lines[1:]] == ["COMPOSE_FILE", "KVM_GID"]
