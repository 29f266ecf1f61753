"""Programs that fail to start, hang or answer wrongly: a clear error with a hint, in time, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S
from vmm.errors import Unavailable
from vmm.hypervisor.base import LOG, Hardware, Hypervisor, Ram
from vmm.hypervisor.cloud_hypervisor import CloudHypervisor
from vmm.hypervisor.process import orphans
from vmm.hypervisor.qemu import Qemu
from vmm.hypervisor.spawn import CONTROL

pytestmark = [pytest.mark.anyio]

_SOON_S = 0.5
_LATER_S = float(PATIENCE_S)


@pytest.mark.parametrize("kind", ["qemu", "cloud-hypervisor"])
@pytest.mark.parametrize("way", ["start", "restore"])
async def test_a_program_that_ignores_its_socket_times_out(tmp_path: Path, kind: str, way: str) -> None:
    driver = made(kind, program(tmp_path, "exec sleep 60"), start_s=_SOON_S)
    error = await refusal(driver, tmp_path, way)
    assert error.message == "The hypervisor did not answer on its control socket within 0.5 s"
    assert error.hint == "Run casemate doctor"


@pytest.mark.parametrize("kind", ["qemu", "cloud-hypervisor"])
async def test_a_program_that_ends_at_its_start_is_reported_with_its_last_lines(tmp_path: Path, kind: str) -> None:
    driver = made(kind, program(tmp_path, "echo first; echo; echo 'no such machine' >&2; exit 3"))
    error = await refusal(driver, tmp_path, "start")
    assert error.message == "The hypervisor has ended: first; no such machine"
    assert (tmp_path / "machine" / LOG).exists()


@pytest.mark.parametrize("kind", ["qemu", "cloud-hypervisor"])
async def test_a_missing_program_is_reported(tmp_path: Path, kind: str) -> None:
    error = await refusal(made(kind, str(tmp_path / "missing")), tmp_path, "start")
    assert error.message.startswith("The hypervisor cannot be started: ")
    assert f"{tmp_path}/missing" in error.message
    with pytest.raises(Unavailable, match="no longer exists"):
        await made(kind, str(tmp_path / "missing")).probe()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("qemu", "Could not access KVM kernel module: Permission denied"),
        (
            "cloud-hypervisor",
            "0: Failed to open hypervisor interface (is hypervisor interface available?)\n  1: Failed to create Vm\n"
            "  2: Permission denied (os error 13)",
        ),
    ],
)
async def test_missing_permission_on_kvm_is_reported_with_the_fix(tmp_path: Path, kind: str, words: str) -> None:
    error = await refusal(made(kind, program(tmp_path, f"echo '{words}' >&2; exit 1")), tmp_path, "start")
    assert "Permission denied" in error.message
    assert "usermod -aG kvm" in error.hint


@pytest.mark.parametrize("kind", ["qemu", "cloud-hypervisor"])
async def test_a_program_that_listens_but_never_answers_times_out(tmp_path: Path, kind: str) -> None:
    silent = """
        while True:
            kept.append(listener.accept())
    """
    driver = made(kind, listening(tmp_path, silent), start_s=2.0)
    error = await refusal(driver, tmp_path, "start")
    assert "control socket within 2 s" in error.message


async def test_a_call_that_hangs_ends_at_its_deadline(tmp_path: Path) -> None:
    driver = made("cloud-hypervisor", listening(tmp_path, answering("53.0.0")), start_s=_LATER_S, call_s=2.0)
    error = await refusal(driver, tmp_path, "start")
    assert error.message.startswith("The hypervisor did not answer vm.create within 2 s")


async def test_a_version_other_than_at_server_start_is_refused(tmp_path: Path) -> None:
    driver = made("cloud-hypervisor", listening(tmp_path, answering("52.0.1")), start_s=_LATER_S)
    error = await refusal(driver, tmp_path, "start")
    assert error.message.startswith("The hypervisor's version must be 53.0, as at server start, got 52.0")
    assert "Restart the server" in error.hint


async def test_a_qemu_version_other_than_at_server_start_is_refused(tmp_path: Path) -> None:
    driver = made("qemu", listening(tmp_path, greeting("7.3.1")), start_s=_LATER_S)
    for way in ("start", "restore"):
        error = await refusal(driver, tmp_path, way)
        assert error.message.startswith("The hypervisor's version must be 7.2, as at server start, got 7.3.1")
        assert "Restart the server" in error.hint
        shutil.rmtree(tmp_path / "machine")


async def test_an_answer_that_is_not_json_is_refused(tmp_path: Path) -> None:
    driver = made("cloud-hypervisor", listening(tmp_path, answering("53.0.0", then=b"<html>")), start_s=_LATER_S)
    error = await refusal(driver, tmp_path, "start")
    assert "not JSON" in error.message


async def test_a_state_with_an_unsupported_format_is_refused_before_anything_starts(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "config.json").write_text("{}")
    (state / "state.json").write_text("{}")
    driver = made("cloud-hypervisor", program(tmp_path, "touch started"))
    error = await refusal(driver, tmp_path, "restore", state=state)
    assert "has a format that this server does not support" in error.message
    assert not (tmp_path / "machine" / "started").exists()


def made(kind: str, binary: str, *, start_s: float = _LATER_S, call_s: float = _LATER_S) -> Hypervisor:
    if kind == "qemu":
        return Qemu(binary, version="7.2", kvm=False, cpu_model="", start_s=start_s)
    return CloudHypervisor(binary, version="53.0", cpu_model="", landlock=False, start_s=start_s, call_s=call_s)


def program(place: Path, text: str) -> str:
    path = place / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def listening(place: Path, loop: str) -> str:
    """Make a program that runs `loop` on its control socket, the `listener`."""
    script = place / "listens.py"
    script.write_text(
        f"import socket, time\nkept, listener = [], socket.socket(fileno={CONTROL})\n" + textwrap.dedent(loop)
    )
    return program(place, f"exec {sys.executable} {script}")


def answering(version: str, *, then: bytes = b"") -> str:
    """Answer the first call with a version, and all others with `then`, or not at all."""
    ping = b'{"version": "%s"}' % version.encode()
    return f"""
        answers = [{ping!r}, {then!r}]
        while True:
            connection, _ = listener.accept()
            kept.append(connection)
            while connection.recv(65536):
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if not answer:
                    time.sleep(60)
                head = f"HTTP/1.1 200\\r\\nContent-Length: {{len(answer)}}\\r\\n\\r\\n".encode()
                connection.sendall(head + answer)
    """


def greeting(version: str) -> str:
    """Greet as QEMU does, and accept the first command."""
    said = {"qemu": dict(zip(("major", "minor", "micro"), map(int, version.split(".")), strict=True))}
    hello = json.dumps({"QMP": {"version": said}}).encode() + b"\n"
    return f"""
        while True:
            connection, _ = listener.accept()
            kept.append(connection)
            connection.sendall({hello!r})
            connection.recv(65536)
            connection.sendall(b'{{"return": {{}}, "id": 1}}\\n')
    """


async def refusal(driver: Hypervisor, place: Path, way: str, *, state: Path | None = None) -> Unavailable:
    """Return the driver's error for a machine that cannot start. No process may be left running."""
    part = place / "part"
    part.touch()
    hardware = Hardware(cpu=1, mem=16, kernel_elf=part, kernel_bz=part, initramfs=part, toolbox=part, base=part)
    directory = place / "machine"
    directory.mkdir()
    ram = Ram(path=directory / "ram", private=False)
    with pytest.raises(Unavailable) as refused:
        if way == "start":
            await driver.start(directory, hardware, ram=ram, disk=part)
        else:
            await driver.restore(directory, hardware, ram=ram, disk=part, state=state or saved_state(place))
    assert orphans(place) == {}
    return refused.value


def saved_state(place: Path) -> Path:
    """Write a state with only those parts that a driver reads before it starts its program."""
    state = place / "state"
    state.mkdir()
    disks = '[{"path": ""}, {"path": ""}, {"path": ""}]'
    (state / "config.json").write_text(
        f'{{"memory": {{"zones": [{{}}]}}, "disks": {disks}, "payload": {{}}, "serial": {{}}, "vsock": {{}}}}'
    )
    (state / "state.json").write_text("{}")
    return state
