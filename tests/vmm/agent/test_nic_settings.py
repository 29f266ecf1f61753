from __future__ import annotations

from pathlib import Path

import pytest

from vmm.agent.nic_settings import Settings, SettingsFile
from vmm.agent.refusals import RefusalError
from vmm.agent.uplink import BOOT_MAC
from vmm.hypervisor import nic

TEXTS = {b"mac": b"02:00:0a:29:00:02", b"address": b"10.41.0.2/16", b"gateway": b"10.41.0.1"}


def test_settings_are_written_as_they_were_given() -> None:
    settings = Settings.of(TEXTS)
    assert settings is not None
    assert {name.encode(): value.encode() for name, value in settings.texts().items()} == TEXTS


def test_no_settings_are_none() -> None:
    assert Settings.of({}) is None


@pytest.mark.parametrize("missing", TEXTS)
def test_a_missing_setting_is_refused(missing: bytes) -> None:
    with pytest.raises(RefusalError) as refused:
        Settings.of({name: value for name, value in TEXTS.items() if name != missing})
    assert missing.decode() in refused.value.message


@pytest.mark.parametrize(
    "wrong",
    [
        {b"mac": b"02:00:0a:29:00"},
        {b"mac": b"not hex"},
        {b"address": b"10.41.0.2"},
        {b"address": b"10.41.0/16"},
        {b"address": b"10.41.0.2/0"},
        {b"address": b"10.41.0.2/33"},
        {b"address": b"fd00::2/64"},
        {b"gateway": b"router"},
        {b"gateway": b"\xff"},
    ],
)
def test_a_wrong_setting_is_refused(wrong: dict[bytes, bytes]) -> None:
    with pytest.raises(RefusalError):
        Settings.of(TEXTS | wrong)


def test_the_file_keeps_settings_and_that_there_are_none(tmp_path: Path) -> None:
    file = SettingsFile(str(tmp_path))
    assert not file.exists()
    for settings in (Settings.of(TEXTS), None):
        file.write(settings)
        assert file.exists()
        assert file.read() == settings
    assert len(list(tmp_path.iterdir())) == 1


def test_hypervisor_agent_and_the_guests_first_program_know_the_device_by_the_same_address() -> None:
    assert BOOT_MAC.hex(":") == nic.BOOT_MAC
    first = Path(__file__).parents[3] / "vmm/images/init.sh"
    assert f'"$address" = {nic.BOOT_MAC} ' in first.read_text()
