"""VoidBox's configuration: its layers, and what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.cli import client_config
from mcp_server.cli.client_config import TEMPLATE, level_of, merged, user_file
from mcp_server.cli.console import CliError
from runs.specs.faults import SpecRefused
from tests.mcp_server.cli.rig import Cli

pytestmark = pytest.mark.anyio


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a home, and a host whose file can be written."""
    monkeypatch.setattr(client_config, "HOST_FILE", tmp_path / "host.yaml")
    return {"HOME": str(tmp_path)}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_anything_there_are_defaults(environ: dict[str, str]) -> None:
    found = merged(environ)
    assert (found.log_level, found.banner, found.files, found.warnings) == ("info", True, (), ())


def test_each_layer_wins_over_those_before_it(environ: dict[str, str], tmp_path: Path) -> None:
    named = tmp_path / "named.yaml"
    layers = [(client_config.HOST_FILE, "debug"), (user_file(environ), "error"), (named, "warn")]
    for number, (path, level) in enumerate(layers, 1):
        write(path, f"log_level: {level}")
        if path == named:
            environ["VOIDBOX_CONFIG"] = str(named)
        found = merged(environ)
        assert found.log_level == {"warn": "warning"}.get(level, level)
        assert len(found.files) == number
    environ["VOIDBOX_LOG_LEVEL"] = "error"
    assert merged(environ).log_level == "error"
    assert merged(environ, log_level="debug").log_level == "debug"


def test_what_a_layer_leaves_out_is_that_of_the_one_before(environ: dict[str, str]) -> None:
    write(client_config.HOST_FILE, "banner: false\nlog_level: debug")
    write(user_file(environ), TEMPLATE)
    assert (merged(environ).banner, merged(environ).log_level) == (False, "debug")
    write(user_file(environ), "banner: true")
    assert (merged(environ).banner, merged(environ).log_level) == (True, "debug")
    assert not merged(environ | {"VOIDBOX_NO_BANNER": "TRUE"}).banner
    assert not merged(environ, no_banner=True).banner


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("log_levle: info", "1:1: log_levle: there is no field 'log_levle' here: did you mean log_level?"),
        ("log_level: loud", "1:12: log_level: must be debug, info, warning or error, got 'loud'"),
        ("banner: [", "1:10: is not valid YAML"),
        ("banner: true\nbanner: false", "2:1: the field 'banner' stands here twice"),
        ("- banner", "1:1: must be a mapping"),
    ],
)
def test_a_file_with_a_fault_is_refused_with_its_place(environ: dict[str, str], text: str, fault: str) -> None:
    path = user_file(environ)
    write(path, text)
    with pytest.raises(SpecRefused) as error:
        merged(environ)
    assert str(error.value).startswith(f"{path}:{fault}")


def test_a_file_that_is_named_must_exist(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SpecRefused, match="No such file"):
        merged(environ | {"VOIDBOX_CONFIG": str(tmp_path / "none.yaml")})


def test_what_has_no_effect_is_told_with_the_reason(environ: dict[str, str]) -> None:
    path = user_file(environ)
    write(path, "daemon_url: http://127.0.0.1:43100\npaths:\n  kernel: /boot/vmlinuz\n")
    daemon, kernel = merged(environ).warnings
    assert daemon.startswith(f"{path}:1:1: daemon_url: has no effect: runs are not kept by a daemon yet")
    assert kernel == f"{path}:3:3: paths.kernel: has no effect: every machine has Casemate's own kernel"


def test_levels_may_be_filters_as_voidbox_takes_them() -> None:
    assert level_of("void_box=debug,warn", origin="x") == "warning"
    assert level_of("void_box=debug", origin="x") == "info"
    with pytest.raises(CliError, match="--log-level: 'loud' is not a log level: use debug, info, warning or error"):
        level_of("loud", origin="--log-level")


@pytest.mark.parametrize("program", ["casemate", "voidbox"])
async def test_a_file_is_written_once_and_checked(tmp_path: Path, program: str) -> None:
    cli = Cli(url="", key="", keys={}, cwd=tmp_path, program=program)
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    file = tmp_path / ".config/voidbox/config.yaml"
    assert (await cli("config", "init", env=env)).text == f"Wrote {file}\n"
    again = await cli("config", "init", env=env)
    assert (again.status, again.err) == (1, f"error: {file} is there already: edit it, or move it away\n")
    shown = (await cli("config", "validate", env=env)).text.splitlines()
    assert "log_level: info" in shown
    assert f"config_dir: {file.parent}" in shown
    found = (await cli("config", "validate", "--output", "json", env=env)).json
    assert found["files"] == [str(file)]
    assert found["snapshot_dir"] == str(tmp_path / "data" / "snapshots")
    file.write_text("banner: maybe")
    refused = await cli("config", "validate", env=env)
    assert (refused.status, refused.err) == (1, f"error: {file}:1:9: banner: must be true or false, got 'maybe'\n")
