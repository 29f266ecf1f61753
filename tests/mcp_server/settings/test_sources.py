"""Where values come from: our names, files, the names of other systems."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mcp_server.settings import Settings
from mcp_server.settings.names import ALIASES, IGNORED, without_effect

from .conftest import Read

SECRET = "s" * 32
EXAMPLE = "change-me-in-production"
ANYWHERE = str(IPv4Address(0))
GOOD = {
    "host": "127.0.0.2",
    "port": "8080",
    "images": "/srv/images",
    "instances": "/srv/instances",
    "mongo_uri": "mongodb://db.example.org",
    "mongo_db": "vr-db",
    "default_cpu": "2",
    "create_wait_seconds": "20",
    "default_mem": "2048",
    "default_image": "minimal",
    "local_mode": "true",
    "metrics": "false",
    "bridge_name": "vmbr0",
    "gateway_ip": "10.41.0.9",
    "network_cidr": "192.168.100.0/22",
    "subnet_prefix": "10.41.",
    "tap_prefix": "tap",
    "allowed_origins": "https://box.example.org",
    "jwt_secret": SECRET,
    "api_keys": "k" * 24,
    "rate_limit_requests": "100",
    "rate_limit_window_seconds": "30",
    "sandbox_api_ttl_seconds": "60",
    "sandbox_api_unused_seconds": "3600",
    "sandbox_api_cleanup_seconds": "5",
    "sandbox_api_persist": "true",
    "sandbox_api_exec_seconds": "300",
    "sandbox_api_file_bytes": "1024",
    "sandbox_api_commands": "ls,cat",
    "sandbox_api_mem": "1g",
    "sandbox_api_pids": "100",
}


@pytest.mark.parametrize("setting", ALIASES)
def test_a_name_of_another_system_means_the_same_as_ours(read: Read, setting: str) -> None:
    for alias, system in ALIASES[setting]:
        theirs, ours = read(**{alias: GOOD[setting]}), read(**{f"CASEMATE_{setting.upper()}": GOOD[setting]})
        # Sandbox-api's own variables turn its API on; ours say so apart.
        if theirs.settings.sandbox_api:
            ours = read(**{f"CASEMATE_{setting.upper()}": GOOD[setting], "CASEMATE_SANDBOX_API": "true"})
        assert theirs.settings == ours.settings != read().settings
        assert str(theirs.origins[setting]) == f"{alias} ({system})"
        assert str(ours.origins[setting]) == f"CASEMATE_{setting.upper()}"


def test_what_is_not_set_has_no_origin(read: Read) -> None:
    assert set(read(SERVER_PORT="8080").origins) == {"data", "port"}


def test_our_name_wins_and_a_different_value_of_theirs_is_told(read: Read) -> None:
    reading = read(CASEMATE_PORT="1", SERVER_PORT="2")
    assert reading.settings.port == 1
    assert reading.warnings == (
        "SERVER_PORT (VoidRun) is not used because CASEMATE_PORT is set too: remove one of them",
    )
    assert read(CASEMATE_PORT="1", SERVER_PORT="1").warnings == ()


def test_a_bad_value_is_told_under_the_name_that_was_used(refusal: Callable[..., str]) -> None:
    assert refusal(SERVER_PORT="x").startswith("SERVER_PORT=x is invalid")
    assert refusal(SERVER_HOST="no such host").startswith("SERVER_HOST='no such host' is not an address")
    assert refusal(JWT_SECRET="hunter2").startswith("JWT_SECRET must have at least 32 bytes, got 7")


@pytest.mark.parametrize("host", ["", ANYWHERE])
def test_their_empty_host_means_all_interfaces_by_the_machines_own_names(read: Read, host: str) -> None:
    reading = read(SERVER_HOST=host)
    assert not reading.settings.local_only
    assert reading.settings.registration_policy == "closed"
    assert socket.gethostname().lower() in reading.settings.allowed_hosts
    assert str(reading.origins["allowed_hosts"]) == "SERVER_HOST (VoidRun)"
    (warning,) = reading.warnings
    assert "put a proxy with TLS before it" in warning
    assert "set CASEMATE_ALLOWED_HOSTS" in warning


def test_their_empty_host_with_names_or_a_host_of_ours_is_as_we_say(read: Read) -> None:
    reading = read(SERVER_HOST="", CASEMATE_ALLOWED_HOSTS="box")
    assert (reading.settings.url(), reading.settings.allowed_hosts) == ("http://127.0.0.1:33944", ("box",))
    assert reading.warnings == ()
    assert read(SERVER_HOST="", CASEMATE_HOST="127.0.0.1").settings.local_only


def test_the_published_secret_is_not_used_unless_tokens_are(read: Read, refusal: Callable[..., str]) -> None:
    reading = read(JWT_SECRET=EXAMPLE)
    assert reading.settings.jwt_secret is None
    assert "API keys alone are accepted" in reading.warnings[0]
    assert "openssl rand -hex 32" in reading.warnings[0]
    line = refusal(JWT_SECRET=EXAMPLE, CASEMATE_JWT_ISSUER="https://id.example.org", CASEMATE_JWT_AUDIENCE="box")
    assert "or remove CASEMATE_JWT_ISSUER and CASEMATE_JWT_AUDIENCE to go on without tokens" in line
    ours = read(JWT_SECRET=EXAMPLE, CASEMATE_JWT_SECRET=SECRET, CASEMATE_JWT_AUDIENCE="box").settings
    assert ours.jwt_secret is not None
    assert refusal(CASEMATE_JWT_SECRET=EXAMPLE).startswith("CASEMATE_JWT_SECRET must have at least 32 bytes")


@pytest.mark.parametrize("name", ["CASEMATE_JWT_SECRET_FILE", "JWT_SECRET_FILE"])
def test_a_secret_may_lie_in_a_file(read: Read, tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    reading = read(**{name: str(file)})
    assert reading.settings.jwt_secret is not None
    assert reading.settings.jwt_secret.get_secret_value() == SECRET
    assert reading.origins["jwt_secret"].variable == name


def test_keys_in_a_file_may_be_on_lines_of_their_own(read: Read, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{'a' * 24}\n{'b' * 24}\n")
    assert len(read(CASEMATE_API_KEYS_FILE=str(file)).settings.api_keys) == 2


def test_a_file_is_for_secrets_only(read: Read, tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.write_text("1")
    reading = read(CASEMATE_PORT_FILE=str(file))
    assert reading.settings.port == 33944
    assert reading.warnings == ("CASEMATE_PORT_FILE is not a setting: did you mean CASEMATE_PORT?",)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe", b"s" * 70_000])
def test_a_file_without_a_secret_is_refused_by_its_name_alone(
    refusal: Callable[..., str], tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    line = refusal(CASEMATE_JWT_SECRET_FILE=str(file))
    assert line.startswith(f"CASEMATE_JWT_SECRET_FILE={file}"[:80])
    assert "must name a readable file with the secret" in line
    assert "sss" not in line


def test_a_secret_set_twice_is_told(read: Read, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    (line,) = read(CASEMATE_JWT_SECRET="t" * 32, CASEMATE_JWT_SECRET_FILE=str(file)).warnings
    assert line.startswith("CASEMATE_JWT_SECRET_FILE is not used because CASEMATE_JWT_SECRET is set too")


def test_a_slip_in_a_name_is_told_with_the_nearest_one(read: Read) -> None:
    assert read(CASEMATE_PROT="1").warnings == ("CASEMATE_PROT is not a setting: did you mean CASEMATE_PORT?",)
    assert read(CASEMATE_API_KEY="cm_x", CASEMATE_REQUIRE_KVM="1").warnings == ()


@pytest.mark.parametrize("value", ["none", "RS256", "hs256"])
def test_another_algorithm_than_ours_is_refused(refusal: Callable[..., str], value: str) -> None:
    assert refusal(JWT_ALGORITHM=value).startswith(f"JWT_ALGORITHM={value} is not supported")


def test_our_algorithm_is_fine(read: Read) -> None:
    assert read(JWT_ALGORITHM="HS256").warnings == ()


def test_origins_are_not_used_where_cors_is_turned_off(read: Read) -> None:
    for origins in ("https://box.example.org", "*"):
        reading = read(CORS_ENABLED="false", CORS_ALLOW_ORIGINS=origins)
        assert reading.settings.allowed_origins == ()
        assert "because CORS_ENABLED is off" in reading.warnings[0]
    assert read(CORS_ENABLED="false").warnings == ()


@pytest.mark.parametrize(
    "variable",
    ["REDIS_HOST", "SANDBOX_DEFAULT_DISK_MB", "HEALTH_ENABLED", "CLERK_SECRET_KEY", "CONTAINER_IMAGE", "NODE_ID"],
)
def test_a_known_name_without_effect_has_a_reason(variable: str) -> None:
    ignored = without_effect(variable)
    assert ignored is not None
    assert ignored.reason


def test_who_limits_idle_time_elsewhere_is_told_our_name_for_it() -> None:
    ignored = without_effect("AUTO_LIFECYCLE_ENABLED")
    assert ignored is not None
    assert "CASEMATE_IDLE_SECONDS" in ignored.reason


def test_a_name_with_an_effect_is_never_called_idle() -> None:
    assert [alias for names in ALIASES.values() for alias, _ in names if without_effect(alias)] == []
    assert without_effect("CASEMATE_PORT") is None
    assert without_effect("HOME") is None
    assert without_effect("CONTAINER_NAME") is None


def test_aliases_and_idle_names_are_what_they_claim() -> None:
    assert set(ALIASES) <= set(Settings.model_fields)
    assert set(GOOD) == set(ALIASES)
    assert len({idle.name for idle in IGNORED}) == len(IGNORED)
