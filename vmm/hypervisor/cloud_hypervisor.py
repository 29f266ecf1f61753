"""Driver for cloud-hypervisor: KVM only, the guest link over vsock, so that a machine has no network device at all.

Memory is one zone with a file behind it. A machine that is to be saved maps the file as it is (`shared`), so a snapshot
holds the devices' state alone. A clone maps the same file privately: its pages are the template's until it writes to
them. Source: the configuration and the snapshot format of v53.0; a snapshot restores only with the same version.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, UNIXSocketStream

from ..errors import LinkError, Unavailable
from .base import CONSOLE, GUEST_PORT, LOG, Hardware, Ram, Running
from .ch_api import ApiError, api, started_api
from .process import ProcessRef, spawn
from .startup import connect_unix, ended_on_failure

_API = "api.sock"
_VSOCK = "vsock.sock"
_RESTORED = "restored"
_CONFIG, _STATE = "config.json", "state.json"
_CID = 3
_MIB = 1024 * 1024
_GREETING_MOST = 64
_GREETING_S = 5.0


class CloudHypervisor:
    """cloud-hypervisor as a hypervisor.

    Args:
        binary: The program.
        version: What it says of itself, such as `53.0`.
        cpu_model: The host processor's name, which a state depends on.
        landlock: Whether the host's kernel can confine the program to its own files.
    """

    name = "cloud-hypervisor"
    accelerator = "kvm"

    def __init__(self, binary: str, *, version: str, cpu_model: str, landlock: bool) -> None:
        self._binary = binary
        self.landlock = landlock
        self.version = version
        self.fingerprint = f"cloud-hypervisor {version} kvm {cpu_model}"

    async def probe(self) -> None:
        """Check that the program and the device are still there.

        Raises:
            Unavailable: One is not.
        """
        if not os.access(self._binary, os.X_OK):
            raise Unavailable(f"{self._binary} is gone", hint="Run casemate doctor")
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Unavailable("/dev/kvm cannot be opened any more", hint="Run casemate doctor")

    async def start(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path) -> Running:
        """Boot a machine from its kernel. Returns as soon as the hypervisor runs; the guest is still booting.

        Raises:
            ApiError: The program did not start, or refused the machine; the message holds the last line it printed.
        """
        await anyio.to_thread.run_sync(_make_file, ram.path, hardware.mem * _MIB)
        process = self._spawn(directory)
        async with ended_on_failure(process, directory), started_api(directory / _API, process) as control:
            await control.call("PUT", "vm.create", self._config(directory, hardware, ram, disk))
            await control.call("PUT", "vm.boot")
        return Running(directory=directory, process=process, port=0)

    async def restore(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path, state: Path) -> Running:
        """Start a machine from a saved device state and its memory; it runs when this returns.

        Raises:
            ApiError: The program did not start, or could not load the state.
        """
        source = await anyio.to_thread.run_sync(
            _adapted, state, directory / _RESTORED, self._config(directory, hardware, ram, disk)
        )
        process = self._spawn(directory)
        async with ended_on_failure(process, directory), started_api(directory / _API, process) as control:
            await control.call("PUT", "vm.restore", {"source_url": f"file://{source}", "resume": True})
        return Running(directory=directory, process=process, port=0)

    async def save(self, machine: Running, state: Path) -> None:
        """Pause the machine and write its device state into a new directory; its memory stays in its (shared) file.

        Raises:
            ApiError: The state could not be written; the machine stays paused.
        """
        await anyio.Path(state).mkdir(mode=0o700)
        async with api(machine.directory / _API) as control:
            await control.call("PUT", "vm.pause")
            await control.call("PUT", "vm.snapshot", {"destination_url": f"file://{state}"})

    async def stop(self, machine: Running) -> None:
        """End the machine at once, without asking the guest. A no-op if it has ended."""
        await machine.process.kill()

    async def ailment(self, machine: Running) -> str:
        """Why a living machine does not run, in words for a user; empty if it runs."""
        try:
            async with api(machine.directory / _API) as control:
                state = (await control.call("GET", "vm.info"))["state"]
        except ApiError as error:
            return error.message
        return "" if state == "Running" else f"the machine is in the state {state}"

    async def resume(self, machine: Running) -> None:
        """Let a stopped machine go on."""
        async with api(machine.directory / _API) as control:
            await control.call("PUT", "vm.resume")

    async def dial(self, machine: Running) -> ByteStream:
        """Connect to the agent over vsock.

        Raises:
            LinkError: Nobody listens there: the hypervisor has ended, or the agent is not up yet.
        """
        try:
            stream = await connect_unix(machine.directory / _VSOCK)
        except OSError as error:
            raise LinkError("The sandbox's control socket is closed: its virtual machine has ended") from error
        try:
            with anyio.fail_after(_GREETING_S):
                await stream.send(f"CONNECT {GUEST_PORT}\n".encode())
                await _accepted(stream)
        except BaseException as error:
            await anyio.aclose_forcefully(stream)
            if isinstance(error, OSError | anyio.BrokenResourceError | anyio.EndOfStream):
                raise LinkError("The guest's agent does not listen") from error
            raise
        return stream

    def _spawn(self, directory: Path) -> ProcessRef:
        # A socket, or the lock beside it, that an earlier process left keeps the program from starting.
        for name in (_API, f"{_API}.lock", _VSOCK):
            (directory / name).unlink(missing_ok=True)
        command = [self._binary, "--api-socket", f"path={_API}"]
        return spawn(command, directory=directory, log=directory / LOG)

    def _config(self, directory: Path, hardware: Hardware, ram: Ram, disk: Path) -> dict[str, Any]:
        zone = {"id": "ram", "size": hardware.mem * _MIB, "file": str(ram.path), "shared": not ram.private}
        config: dict[str, Any] = {
            "cpus": {"boot_vcpus": hardware.cpu, "max_vcpus": hardware.cpu},
            "memory": {"size": 0, "zones": [zone]},
            "payload": {
                "kernel": str(hardware.kernel_bz),
                "initramfs": str(hardware.initramfs),
                "cmdline": "console=ttyS0 quiet panic=-1 reboot=k",
            },
            # Without the type, writes to the first sector of an image that looks raw are refused.
            "disks": [
                {"path": str(hardware.toolbox), "readonly": True, "image_type": "Raw", "id": "toolbox"},
                {"path": str(hardware.base), "readonly": True, "image_type": "Raw", "id": "base"},
                {"path": str(disk), "readonly": False, "image_type": "Raw", "id": "disk"},
            ],
            "serial": {"mode": "File", "file": str(directory / CONSOLE)},
            "console": {"mode": "Off"},
            "rng": {"src": "/dev/urandom"},
            # Relative to where it works, for a socket's address has no room for a long path.
            "vsock": {"cid": _CID, "socket": _VSOCK},
        }
        if self.landlock:
            config["landlock_enable"] = True
            # Its sockets and snapshots are made while it runs, and may be anywhere in its directory.
            config["landlock_rules"] = [{"path": str(directory), "access": "rw"}]
        return config


def _make_file(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _adapted(saved: Path, target: Path, config: dict[str, Any]) -> Path:
    """A copy of a snapshot that names this machine's own files."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    merged = json.loads((saved / _CONFIG).read_text())
    merged["memory"]["zones"][0] |= config["memory"]["zones"][0]
    for disk, own in zip(merged["disks"], config["disks"], strict=True):
        disk["path"] = own["path"]
    for name in ("payload", "serial", "vsock"):
        merged[name] |= config[name]
    for name in ("landlock_enable", "landlock_rules"):
        merged[name] = config.get(name)
    merged["landlock_enable"] = config.get("landlock_enable", False)
    (target / _CONFIG).write_text(json.dumps(merged))
    shutil.copyfile(saved / _STATE, target / _STATE)
    return target


async def _accepted(stream: UNIXSocketStream) -> None:
    """Read the answer to CONNECT, a line that begins with OK, and nothing beyond it."""
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive(1)
        if len(line) > _GREETING_MOST:
            break
    if not line.startswith(b"OK"):
        raise anyio.EndOfStream
