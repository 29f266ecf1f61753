from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm.errors import Unavailable
from vmm.hypervisor import detect
from vmm.hypervisor.doctor import examine

pytestmark = pytest.mark.anyio


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_a_missing_device_is_reported_with_the_fix(tmp_path: Path) -> None:
    state = detect.kvm(tmp_path / "kvm")
    assert not state.usable
    assert "does not exist" in state.detail
    assert "modprobe" in state.fix


def test_a_device_without_hardware_virtualisation_is_not_usable(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse2\n")
    state = detect.kvm(tmp_path / "kvm", tmp_path / "cpuinfo")
    assert not state.usable
    assert "neither svm nor vmx" in state.detail


@pytest.mark.parametrize("flag", ["svm", "vmx"])
def test_device_and_processor_together_are_usable(tmp_path: Path, flag: str) -> None:
    (tmp_path / "kvm").touch()
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flag} sse2\n")
    assert detect.kvm(tmp_path / "kvm", tmp_path / "cpuinfo").usable


async def test_the_installed_qemus_version_is_found() -> None:
    driver = (await detect.drivers())["qemu"]
    assert isinstance(driver, detect.Driver)
    assert driver.version in driver.fingerprint
    assert driver.accelerator in driver.fingerprint


async def test_the_choice_has_a_reason() -> None:
    choice = await detect.choose()
    assert choice.reason.startswith(("QEMU ", "cloud-hypervisor "))
    assert detect.kvm().detail in choice.reason


async def test_cloud_hypervisor_needs_kvm_and_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unusable = detect.Kvm(usable=False, detail="none here", fix="mend it")
    monkeypatch.setattr(detect, "kvm", lambda: unusable)
    monkeypatch.setenv(detect.BINARY_VARIABLE, program(tmp_path / "ch", "echo cloud-hypervisor v53.0.0"))
    without_kvm = (await detect.drivers())["cloud-hypervisor"]
    assert without_kvm == detect.NoDriver(reason="cloud-hypervisor needs KVM: none here", fix="mend it")
    monkeypatch.setenv(detect.BINARY_VARIABLE, str(tmp_path / "missing"))
    without_program = (await detect.drivers())["cloud-hypervisor"]
    assert isinstance(without_program, detect.NoDriver)
    assert "missing is not a program" in without_program.reason
    assert "releases page" in without_program.fix


async def test_with_kvm_cloud_hypervisor_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "kvm", lambda: detect.Kvm(usable=True, detail="fine"))
    monkeypatch.setenv(detect.BINARY_VARIABLE, program(tmp_path / "ch", "echo cloud-hypervisor v53.0.0"))
    choice = await detect.choose()
    assert choice.driver.name == "cloud-hypervisor"
    assert choice.reason == "cloud-hypervisor 53.0 with hardware virtualisation: fine"


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("echo cloud-hypervisor v40.0.0", "must be version 51 or later, got 40.0"),
        ("echo nothing", "does not print a version"),
        ("exit 1", "does not print a version"),
    ],
)
async def test_an_unsuitable_cloud_hypervisor_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, why: str
) -> None:
    monkeypatch.setattr(detect, "kvm", lambda: detect.Kvm(usable=True, detail="fine"))
    monkeypatch.setenv(detect.BINARY_VARIABLE, program(tmp_path / "ch", says))
    found = (await detect.drivers())["cloud-hypervisor"]
    assert isinstance(found, detect.NoDriver) and why in found.reason
    assert (await detect.choose()).driver.name == "qemu"


async def test_a_missing_qemu_is_reported_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(detect.BINARY_VARIABLE, raising=False)
    with pytest.raises(Unavailable, match="apt-get install -y qemu-system-x86"):
        await detect.choose()


@pytest.mark.parametrize("says", ["echo 'QEMU emulator version 6.2.0'", "echo nothing", "exit 1"])
async def test_a_wrong_binary_is_refused(tmp_path: Path, says: str) -> None:
    with pytest.raises(Unavailable, match="apt-get"):
        await detect.qemu_version(program(tmp_path / "qemu", says))


async def test_the_doctor_finds_no_fault_with_this_host(tmp_path: Path) -> None:
    findings = {finding.name: finding for finding in await examine(tmp_path / "not" / "yet")}
    assert {
        "processor",
        "hypervisor",
        "kvm",
        "disk",
        "memory",
        "mmdebstrap",
        "data directory",
    } <= findings.keys()
    wants = [finding for finding in findings.values() if finding.required and not finding.ok]
    # The emulated host's disk is in memory, and smaller than what users need.
    assert [want for want in wants if want.name != "disk" or "CASEMATE_INSIDE_KVM_HOST" not in os.environ] == []


async def test_the_doctor_names_a_fix_for_each_missing_requirement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(detect.BINARY_VARIABLE, raising=False)
    monkeypatch.setattr("vmm.hypervisor.doctor._ADMIN_PATH", str(tmp_path))
    findings = [finding for finding in await examine(tmp_path) if not finding.ok and finding.required]
    assert {"hypervisor", "mmdebstrap", "mke2fs"} <= {finding.name for finding in findings}
    assert all(finding.fix for finding in findings)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a listing says it best
