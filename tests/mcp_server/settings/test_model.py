"""Settings, their defaults and bounds, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.settings import Settings, SettingsRefused
from mcp_server.settings.names import SECRETS

from .conftest import Read, Refusals

ANYWHERE = str(IPv4Address(0))
KEY = "k" * 24
SECRET = "s" * 32


def test_nothing_set_listens_on_loopback_only(read: Read) -> None:
    settings = read().settings
    assert (settings.host, settings.port) == ("127.0.0.1", 33944)
    assert settings.url() == "http://127.0.0.1:33944"
    assert "localhost:*" in settings.hosts
    assert "http://127.0.0.1:*" in settings.origins


def test_the_environment_of_the_process_is_what_load_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASEMATE_DATA", str(tmp_path))
    assert Settings.load().data == tmp_path


def test_images_and_instances_lie_in_the_data_directory_unless_set(read: Read, tmp_path: Path) -> None:
    settings = read(CASEMATE_INSTANCES="/srv/machines").settings
    assert (settings.images, settings.instances) == (tmp_path / "images", Path("/srv/machines"))


def test_an_empty_variable_counts_as_unset(read: Read) -> None:
    assert read(CASEMATE_PORT="").settings.port == 33944


@pytest.mark.parametrize("value", ["abc", "-1", "65536", "1.5"])
def test_a_bad_port_is_refused_by_name_and_value(refusal: Callable[..., str], value: str) -> None:
    reason = refusal(CASEMATE_PORT=value)
    assert reason.startswith(f"CASEMATE_PORT={value} is invalid: ")
    assert reason.endswith("The default is 33944")


def test_a_long_value_is_shown_cut(refusal: Callable[..., str]) -> None:
    assert len(refusal(CASEMATE_PORT="9" * 5000)) < 400


def test_a_value_with_control_characters_is_shown_on_one_line(refusal: Callable[..., str]) -> None:
    assert "1\\n\\x1b[31m2" in refusal(CASEMATE_PORT="1\n\x1b[31m2")


def test_all_bad_values_are_told_at_once(refusals: Refusals) -> None:
    told = refusals(CASEMATE_PORT="x", CASEMATE_JWT_SECRET="short", CASEMATE_MONGO_URI_FILE="/nowhere")
    assert [line.split("=")[0].split(" ")[0] for line in told] == [
        "CASEMATE_MONGO_URI_FILE",
        "CASEMATE_PORT",
        "CASEMATE_JWT_SECRET",
    ]


def test_a_bad_data_directory_is_one_reason_not_three(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert "CASEMATE_DATA=data must be an absolute path" in refusal(CASEMATE_DATA="data")
    file = tmp_path / "file"
    file.touch()
    assert "must be a directory" in refusal(CASEMATE_DATA=str(file))


def test_a_home_directory_is_expanded(read: Read) -> None:
    assert read(CASEMATE_DATA="~/casemate").settings.data == Path.home() / "casemate"


def test_an_unknown_host_is_refused(refusal: Callable[..., str]) -> None:
    assert "is not an address of this machine" in refusal(CASEMATE_HOST="not an address")


@pytest.mark.parametrize("host", [ANYWHERE, str(IPv6Address(0))])
def test_listening_everywhere_needs_the_names_of_the_server(read: Read, refusal: Callable[..., str], host: str) -> None:
    assert "CASEMATE_ALLOWED_HOSTS=" in refusal(CASEMATE_HOST=host)
    settings = read(CASEMATE_HOST=host, CASEMATE_ALLOWED_HOSTS="box.example.org, 192.0.2.7:8080").settings
    assert {"box.example.org", "box.example.org:*", "192.0.2.7:8080", "localhost:*"} <= set(settings.hosts)
    assert host not in settings.hosts
    assert "https://box.example.org" in settings.origins
    assert settings.url() == "http://127.0.0.1:33944"


def test_an_address_of_its_own_is_an_allowed_host(read: Read) -> None:
    assert "192.0.2.7:*" in read(CASEMATE_HOST="192.0.2.7").settings.hosts


@pytest.mark.parametrize(
    ("variables", "policy"),
    [
        ({}, "open"),
        ({"CASEMATE_HOST": "localhost"}, "open"),
        ({"CASEMATE_ALLOWED_HOSTS": "localhost:8080,[::1]:8080"}, "open"),
        ({"CASEMATE_HOST": "192.0.2.7"}, "closed"),
        ({"CASEMATE_HOST": ANYWHERE, "CASEMATE_ALLOWED_HOSTS": "localhost"}, "closed"),
        ({"CASEMATE_ALLOWED_HOSTS": "box.example.org"}, "closed"),
        ({"CASEMATE_TRUSTED_PROXIES": "127.0.0.1"}, "closed"),
        ({"CASEMATE_HOST": "192.0.2.7", "CASEMATE_REGISTRATION": "open"}, "open"),
        ({"CASEMATE_REGISTRATION": "invite"}, "invite"),
    ],
)
def test_registration_is_open_where_only_this_machine_can_call(
    read: Read, variables: dict[str, str], policy: str
) -> None:
    assert read(**variables).settings.registration_policy == policy


@pytest.mark.parametrize(
    "variables",
    [
        {"CASEMATE_HOST": "192.0.2.7"},
        {"CASEMATE_HOST": ANYWHERE, "CASEMATE_ALLOWED_HOSTS": "localhost"},
        {"CASEMATE_ALLOWED_HOSTS": "box.example.org"},
        {"CASEMATE_TRUSTED_PROXIES": "10.0.0.0/8"},
        {"CASEMATE_ALLOWED_ORIGINS": "https://box.example.org"},
    ],
)
def test_local_mode_is_refused_wherever_others_could_call(
    read: Read, refusal: Callable[..., str], variables: dict[str, str]
) -> None:
    assert not read(**variables).settings.local_mode
    assert refusal(CASEMATE_LOCAL_MODE="true", **variables).startswith("CASEMATE_LOCAL_MODE=true lets callers in")


def test_local_mode_on_loopback_is_allowed_and_says_so(read: Read) -> None:
    reading = read(CASEMATE_LOCAL_MODE="true")
    assert reading.settings.local_mode
    assert "without a key" in reading.warnings[0]


def test_a_default_sandbox_must_fit_into_what_one_may_have(refusal: Callable[..., str]) -> None:
    assert "CASEMATE_MAX_MEMORY_MIB=512" in refusal(CASEMATE_MAX_MEMORY_MIB="512")
    assert "CASEMATE_MAX_VCPUS=1" in refusal(CASEMATE_MAX_VCPUS="1", CASEMATE_DEFAULT_CPU="2")


def test_open_registration_and_tokens_for_anybody_deserve_a_word(read: Read) -> None:
    reading = read(
        CASEMATE_HOST="192.0.2.7", CASEMATE_REGISTRATION="open", CASEMATE_JWT_JWKS_URL="https://id.example.org/keys"
    )
    assert ["JWT_AUDIENCE" in line or "REGISTRATION=open" in line for line in reading.warnings] == [True, True]


@pytest.mark.parametrize(
    ("domain", "warned"),
    [
        ("http://ports.example.com:8080", True),
        ("https://ports.example.com", False),
        ("ports.example.com", False),
        ("http://localhost:8080", False),
        ("http://box.localhost", False),
    ],
)
def test_published_ports_over_plain_http_deserve_a_word(read: Read, domain: str, warned: bool) -> None:
    reading = read(CASEMATE_PORTS_DOMAIN=domain)
    assert ["use https" in line for line in reading.warnings] == ([True] if warned else [])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ALLOWED_HOSTS", "http://box.example.org/", "is not a host name"),
        ("ALLOWED_ORIGINS", "box.example.org", "is not an origin"),
        ("ALLOWED_ORIGINS", "https://box.example.org/", "is not an origin"),
        ("ALLOWED_ORIGINS", "null", "is not an origin"),
        ("ALLOWED_ORIGINS", "https://a.example.org,*", "which is every web page, beside other origins"),
        ("TRUSTED_PROXIES", "*", "is not an address"),
        ("TRUSTED_PROXIES", "proxy.example.org", "is not an address"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "is not an address"),
        ("TRUSTED_PROXIES", f"{ANYWHERE}/0", "everybody"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("REGISTRATION", "yes", "'open', 'invite', 'closed' or ''"),
        ("LOCAL_MODE", "perhaps", "valid boolean"),
        ("MONGO_DB", "a.b", "must be a database name"),
        ("MONGO_DB", "admin", "must be a database name"),
        ("MONGO_DB", "x" * 64, "must be a database name"),
        ("JWT_JWKS_URL", "http://id.example.org/keys", "not encrypted"),
        ("JWT_JWKS_URL", "file:///etc/passwd", "must be a URL"),
        ("JWT_JWKS_URL", "https://", "must be a URL"),
        ("JWT_JWKS_URL", "https://id.example.org:x/", "must be a URL"),
        ("JWT_JWKS_URL", "https://me@id.example.org/", "has a user name"),
        ("RATE_LIMIT_REQUESTS", "-1", "greater than or equal to 0"),
        ("RATE_LIMIT_WINDOW_SECONDS", "0", "greater than or equal to 1"),
        ("AUDIT_DAYS", "0", "greater than or equal to 1"),
        ("IDLE_SECONDS", "-1", "greater than or equal to 0"),
        ("IDLE_SECONDS", "2592001", "less than or equal to 2592000"),
        ("SLEEP_RETENTION_DAYS", "-1", "greater than or equal to 0"),
        ("MAX_SNAPSHOTS", "0", "greater than or equal to 1"),
        ("ON_STOP", "kill", "'keep', 'sleep' or ''"),
        ("NETWORK", "everything", "must"),
        ("NETWORK", f"{ANYWHERE}/0", "must not list every address"),
        ("NETWORK", "internet,example.com", 'must have "internet" alone'),
        ("NETWORK", "example.com:443", "443/tcp"),
        ("NETWORK_OPEN", "intranet.example.com", "must be networks such as"),
        ("NETWORK_OPEN", "10.0.0.1/8", "The network is 10.0.0.0/8"),
        ("NETWORK_OPEN", "fd00::/8", "no IPv6"),
        ("NETWORK_OPEN", "198.51.100.0/24", "otherwise denied block"),
        ("NETWORK_OPEN", f"{ANYWHERE}/0", "every address"),
        ("NETWORK_OWN", "198.51.100.0/24", "must be IPv4 addresses such as"),
        ("NETWORK_OWN", "example.com", "must be IPv4 addresses such as"),
        ("NETWORK_PACKAGES", "*", "must"),
        ("NETWORK_PACKAGES", "internet", "must"),
        ("NETWORK_PACKAGES", "https://example.com/simple", "not URLs"),
        ("WARM_POOL", "-1", "greater than or equal to 0"),
        ("DEFAULT_CPU", "9", "less than or equal to 8"),
        ("DEFAULT_MEM", "100", "greater than or equal to 256"),
    ],
)
def test_bad_values_are_told_with_the_way_out(refusal: Callable[..., str], name: str, value: str, told: str) -> None:
    line = refusal(**{f"CASEMATE_{name}": value})
    assert line.startswith(f"CASEMATE_{name}={value} ")
    assert told in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_ORIGINS", "https://box.example.org,http://localhost:*"),
        ("TRUSTED_PROXIES", "127.0.0.1,::1,10.0.0.0/8"),
        ("MONGO_URI", "mongodb://casemate:secret@a:27017,b:27017/casemate?replicaSet=rs"),
        ("MONGO_URI", "mongodb+srv://casemate:secret@db.example.org"),
        ("JWT_JWKS_URL", "http://127.0.0.1:8000/keys"),
        ("JWT_JWKS_URL", "http://[::1]:8000/keys"),
        ("JWT_SECRET", SECRET),
        ("API_KEYS", f"{KEY}1, {KEY}2"),
        ("METRICS_TOKEN", "t" * 16),
        ("RATE_LIMIT_REQUESTS", "1"),
        ("IDLE_SECONDS", "2592000"),
        ("SLEEP_RETENTION_DAYS", "7"),
        ("MAX_SNAPSHOTS", "1"),
        ("ON_STOP", "sleep"),
        ("ON_STOP", "keep"),
        ("NETWORK", "none"),
        ("NETWORK", "example.com, 198.51.100.0/24, 443/tcp"),
        ("NETWORK_OPEN", "10.1.2.0/24,192.168.7.7"),
        ("NETWORK_OWN", "198.51.100.7, 203.0.113.5"),
        ("NETWORK_PACKAGES", "example.com,*.example.org,198.51.100.7"),
        ("WARM_POOL", "3"),
    ],
)
def test_good_values_are_taken(read: Read, name: str, value: str) -> None:
    assert getattr(read(**{f"CASEMATE_{name}": value}).settings, name.lower())


def test_every_web_page_may_be_allowed_and_deserves_a_word(read: Read) -> None:
    reading = read(CASEMATE_ALLOWED_ORIGINS="*")
    assert reading.settings.origins == ["http:*", "https:*", "null"]
    assert "never with a browser's cookies" in reading.warnings[0]


def test_keys_in_urls_deserve_a_word(read: Read) -> None:
    assert not read().settings.query_keys
    reading = read(CASEMATE_QUERY_KEYS="true")
    assert reading.settings.query_keys
    assert "logs of proxies" in reading.warnings[0]


def test_sandboxes_that_never_sleep_and_are_kept_for_ever_are_a_choice(read: Read) -> None:
    settings = read(CASEMATE_IDLE_SECONDS="0").settings
    assert (settings.idle_seconds, settings.sleep_retention_days) == (0, 0)
    assert read().settings.idle_seconds == 300


def test_the_internet_is_open_unless_an_operator_closes_it(read: Read) -> None:
    assert read().settings.network == "internet"
    assert read(CASEMATE_NETWORK="443/tcp, Example.com").settings.network == "example.com,443/tcp"


def test_no_limit_on_requests_is_a_choice(read: Read) -> None:
    assert read(CASEMATE_RATE_LIMIT_REQUESTS="0").settings.rate_limit_requests == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MONGO_URI", "http://user:hunter2@db.example.org"),
        ("MONGO_URI", "mongodb://user:hunter2@"),
        ("MONGO_URI", "hunter2"),
        ("JWT_SECRET", "hunter2"),
        ("API_KEYS", f"{KEY},hunter2"),
        ("API_KEYS", f"{KEY}hunter2,{KEY}hunter2"),
        ("API_KEYS", f"{KEY}hunter2ü"),
        ("METRICS_TOKEN", "hunter2"),
        ("METRICS_TOKEN", "hunter2 hunter2 hunter2"),
    ],
)
def test_a_refused_secret_is_never_shown(refusal: Callable[..., str], name: str, value: str) -> None:
    line = refusal(**{f"CASEMATE_{name}": value})
    assert line.startswith(f"CASEMATE_{name} ")
    assert "hunter2" not in line


@given(
    name=st.sampled_from(sorted(SECRETS)),
    before=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    after=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
)
def test_no_secret_whatever_it_holds_is_in_a_refusal(name: str, before: str, after: str) -> None:
    try:
        reading = Settings.read({f"CASEMATE_{name.upper()}": f"{before}hunter2{after}"})
    except SettingsRefused as refused:
        assert "hunter2" not in str(refused)
    else:
        assert "hunter2" not in f"{reading}"


def test_bytes_that_are_no_text_are_refused_in_words(refusal: Callable[..., str]) -> None:
    raw = b"hunter2\xff".decode(errors="surrogateescape")
    for name in ("CASEMATE_JWT_SECRET", "CASEMATE_MONGO_DB", "CASEMATE_HOST", "CASEMATE_ALLOWED_ORIGINS"):
        line = refusal(**{name: raw * 5})
        assert line.startswith(name)
        assert line.isprintable()


def test_settings_can_be_printed_without_their_secrets(read: Read) -> None:
    settings = read(
        CASEMATE_MONGO_URI="mongodb://u:hunter2@db",
        CASEMATE_JWT_SECRET=SECRET + "hunter2",
        CASEMATE_API_KEYS=KEY + "hunter2",
        CASEMATE_METRICS_TOKEN="hunter2" * 3,
    ).settings
    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    assert settings.jwt_secret is not None
    assert settings.jwt_secret.get_secret_value() == SECRET + "hunter2"


def test_every_secret_type_is_known_as_a_secret() -> None:
    typed = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert typed == SECRETS
