"""Settings from the environment, and the refusals."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from mcp_server.settings import Settings, SettingsRefused


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASEMATE_DATA", str(tmp_path))
    for name in ("HOST", "PORT", "ALLOWED_HOSTS", "ALLOWED_ORIGINS", "LOG_LEVEL", "WARM"):
        monkeypatch.delenv(f"CASEMATE_{name}", raising=False)


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsRefused) as caught:
        Settings.load()
    assert len(caught.value.reasons) == 1
    return caught.value.reasons[0]


def test_nothing_set_listens_on_loopback_only() -> None:
    settings = Settings.load()
    assert (settings.host, settings.port) == ("127.0.0.1", 33944)
    assert settings.url() == "http://127.0.0.1:33944"
    assert "localhost:*" in settings.hosts
    assert "http://127.0.0.1:*" in settings.origins


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEMATE_PORT", "")
    assert Settings.load().port == 33944


@pytest.mark.parametrize("value", ["abc", "-1", "65536", "1.5"])
def test_a_bad_port_is_refused_by_name_and_value(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    reason = refusal(monkeypatch, "CASEMATE_PORT", value)
    assert reason.startswith(f"CASEMATE_PORT={value} is refused: ")
    assert reason.endswith("The default is 33944")


def test_a_long_value_is_shown_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(refusal(monkeypatch, "CASEMATE_PORT", "9" * 5000)) < 400


def test_a_relative_data_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CASEMATE_DATA=data is not an absolute path" in refusal(monkeypatch, "CASEMATE_DATA", "data")


def test_a_file_as_data_directory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "is not a directory" in refusal(monkeypatch, "CASEMATE_DATA", str(file))


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEMATE_DATA", "~/casemate")
    assert Settings.load().data == Path.home() / "casemate"


def test_an_unknown_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no address of this machine" in refusal(monkeypatch, "CASEMATE_HOST", "not an address")


@pytest.mark.parametrize("host", [str(IPv4Address(0)), str(IPv6Address(0))])
def test_listening_everywhere_needs_the_names_of_the_server(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert "CASEMATE_ALLOWED_HOSTS=" in refusal(monkeypatch, "CASEMATE_HOST", host)
    monkeypatch.setenv("CASEMATE_ALLOWED_HOSTS", "box.example.org, 192.0.2.7:8080")
    settings = Settings.load()
    assert {"box.example.org", "box.example.org:*", "192.0.2.7:8080", "localhost:*"} <= set(settings.hosts)
    assert host not in settings.hosts
    assert "https://box.example.org" in settings.origins
    assert settings.url() == "http://127.0.0.1:33944"


def test_an_address_of_its_own_is_an_allowed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEMATE_HOST", "192.0.2.7")
    assert "192.0.2.7:*" in Settings.load().hosts


def test_a_url_as_allowed_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no host name" in refusal(monkeypatch, "CASEMATE_ALLOWED_HOSTS", "http://box.example.org/")


def test_an_origin_without_a_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no origin" in refusal(monkeypatch, "CASEMATE_ALLOWED_ORIGINS", "box.example.org")


def test_an_unknown_log_level_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'debug', 'info', 'warning' or 'error'" in refusal(monkeypatch, "CASEMATE_LOG_LEVEL", "loud")
