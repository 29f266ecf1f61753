"""What the driver for cloud-hypervisor asks of its program for a machine with a network device.

A program that notes its calls stands for the real one, which needs KVM.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.hypervisor.numbered import Numbered
from vmm.hypervisor.base import Hardware, Ram, Running
from vmm.hypervisor.ch_api import ApiError
from vmm.hypervisor.cloud_hypervisor import CloudHypervisor
from vmm.hypervisor.nic import BOOT_MAC
from vmm.hypervisor.process import orphans
from vmm.hypervisor.spawn import CONTROL

pytestmark = pytest.mark.anyio

_NOTES = f"""\
import json, os, socket, sys, threading

listener = socket.socket(fileno={CONTROL})

def serve(connection):
    while True:
        data, passed, _, _ = socket.recv_fds(connection, 1024, 8)
        if not data:
            return
        while b"\\r\\n\\r\\n" not in data:
            data += connection.recv(1024)
        head, _, body = data.partition(b"\\r\\n\\r\\n")
        lengths = [line for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0].split(b":")[1]):
            body += connection.recv(1024)
        name = head.split()[1].decode().rpartition("/")[2]
        net = "restored/config.json"
        note = {{"call": name, "body": json.loads(body or b"null"), "passed": len(passed)}}
        if name == "vm.restore":
            note["net"] = json.load(open(net)).get("net")
        print(json.dumps(note), flush=True)
        answer = b'{{"version": "53.0.0"}}' if name == "vmm.ping" else b""
        status = 500 if name in sys.argv else 200 if answer else 204
        connection.sendall(b"HTTP/1.1 %d \\r\\nContent-Length: %d\\r\\n\\r\\n" % (status, len(answer)) + answer)

while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def made(place: Path, nics: Numbered, *refused: str) -> CloudHypervisor:
    script, program = place / "notes.py", place / "program"
    script.write_text(_NOTES)
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {script} {' '.join(refused)}\n")
    program.chmod(0o755)
    return CloudHypervisor(str(program), version="53.0", cpu_model="", landlock=False, nics=nics)


def hardware(place: Path, *, nic: bool = True) -> Hardware:
    part = place / "part"
    part.touch()
    (place / "machine").mkdir()
    return Hardware(cpu=1, mem=16, kernel_elf=part, kernel_bz=part, initramfs=part, toolbox=part, base=part, nic=nic)


def notes(place: Path) -> dict[str, Any]:
    lines = map(json.loads, (place / "machine" / "hypervisor.log").read_text().splitlines())
    return {note["call"]: note for note in lines}


def saved(place: Path, net: list[dict[str, Any]]) -> Path:
    state = place / "state"
    state.mkdir()
    config: dict[str, Any] = {
        "memory": {"zones": [{}]},
        "disks": [{}, {}, {}],
        "payload": {},
        "serial": {},
        "vsock": {},
        "net": net,
    }
    (state / "config.json").write_text(json.dumps(config))
    (state / "state.json").write_text("{}")
    return state


async def started(driver: CloudHypervisor, place: Path, *, nic: bool = True) -> Running:
    directory = place / "machine"
    ram = Ram(path=directory / "ram", private=False)
    return await driver.start(directory, hardware(place, nic=nic), ram=ram, disk=place / "part")


async def test_a_machine_gets_its_tap_between_its_making_and_its_boot(tmp_path: Path) -> None:
    nics = Numbered()
    driver = made(tmp_path, nics)
    machine = await started(driver, tmp_path)
    try:
        assert machine.nic == nics.used[machine.directory]
        calls = notes(tmp_path)
        assert list(calls) == ["vmm.ping", "vm.create", "vm.add-net", "vm.boot"]
        assert "net" not in calls["vm.create"]["body"]
        assert calls["vm.add-net"]["body"] == {"id": "net", "mac": BOOT_MAC}
        assert [call["passed"] for call in calls.values()] == [0, 0, 1, 0]
    finally:
        await driver.stop(machine)
    assert nics.used == {}


async def test_a_machine_without_a_device_gets_none(tmp_path: Path) -> None:
    nics = Numbered()
    driver = made(tmp_path, nics)
    machine = await started(driver, tmp_path, nic=False)
    try:
        assert machine.nic is None
        assert list(notes(tmp_path)) == ["vmm.ping", "vm.create", "vm.boot"]
    finally:
        await driver.stop(machine)


async def test_a_restored_machine_gets_its_tap_with_the_state(tmp_path: Path) -> None:
    nics = Numbered()
    driver = made(tmp_path, nics)
    state = saved(tmp_path, [{"id": "net", "mac": BOOT_MAC, "fds": [37], "num_queues": 2}])
    directory = tmp_path / "machine"
    machine = await driver.restore(
        directory,
        hardware(tmp_path),
        ram=Ram(path=directory / "ram", private=False),
        disk=tmp_path / "part",
        state=state,
    )
    try:
        assert machine.nic == nics.used[directory]
        call = notes(tmp_path)["vm.restore"]
        assert call["body"] == {
            "source_url": "file://restored",
            "resume": True,
            "net_fds": [{"id": "net", "num_fds": 1}],
        }
        assert call["passed"] == 1
        assert call["net"] == [{"id": "net", "mac": BOOT_MAC, "fds": [-1], "num_queues": 2}]
    finally:
        await driver.stop(machine)


async def test_a_machine_that_does_not_start_gives_its_address_back(tmp_path: Path) -> None:
    nics = Numbered()
    with pytest.raises(ApiError, match=r"refused vm\.add-net"):
        await started(made(tmp_path, nics, "vm.add-net"), tmp_path)
    assert nics.used == {}
    assert orphans(tmp_path) == {}
