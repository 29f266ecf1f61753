"""VoidRun's environment is read as it stands: each name has an effect, or is told to have none."""

from __future__ import annotations

import pytest

from mcp_server.image_names import image_named
from mcp_server.settings import Settings
from mcp_server.settings.names import ALIASES, set_without_effect

from .voidrun_environment import ALL, README

_EFFECTIVE = {alias for names in ALIASES.values() for alias, _ in names}


def test_the_block_of_the_readme_is_accepted_with_warnings_where_it_is_unsafe() -> None:
    reading = Settings.read(README)
    settings = reading.settings
    assert (settings.port, settings.mongo_db, settings.jwt_secret) == (33944, "vr-db", None)
    assert (str(settings.images), str(settings.instances)) == (README["BASE_IMAGES_DIR"], README["INSTANCES_DIR"])
    assert (settings.default_cpu, settings.default_mem) == (1, 1024)
    assert image_named(settings.default_image, ("code", "minimal")) == "code"
    assert (settings.taps.bridge, str(settings.taps.gateway)) == ("vmbr0", "192.168.100.1/22")
    assert [line.split()[0] for line in reading.warnings] == ["JWT_SECRET", "SERVER_HOST"]


def test_all_their_names_together_are_accepted() -> None:
    settings = Settings.read(ALL).settings
    assert settings.allowed_origins == ("*",)
    assert settings.taps.prefix == "vr-tap"
    assert not settings.local_mode


@pytest.mark.parametrize("variable", ALL)
def test_each_name_has_an_effect_or_is_told_to_have_none(variable: str) -> None:
    told = {name for name, _ in set_without_effect({variable: ALL[variable] or "x"})}
    assert (variable in _EFFECTIVE) != (variable in told)
