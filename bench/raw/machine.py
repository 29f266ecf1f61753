"""Boots, saves and clones machines with cloud-hypervisor and nothing else: each call blocks until it is done.

Source: the API of cloud-hypervisor v53.0, and the layout of its snapshots.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vmm.images import cpio
from vmm.images.catalogue import ImageSet

_HERE = Path(__file__).parent
_MIB = 1024 * 1024
_DEADLINE_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a raw machine boots from."""

    binary: str
    kernel: Path
    initramfs: Path
    toolbox: Path
    base: Path

    @classmethod
    def of(cls, binary: str, images: ImageSet, place: Path) -> Self:
        """The kernel, modules and Python of an image, with an agent of few lines in place of the product's."""
        initramfs = place / "initramfs"
        entries = [
            cpio.file("init", (_HERE / "init.sh").read_bytes(), 0o755),
            cpio.file("agent.py", (_HERE / "agent.py").read_bytes()),
        ]
        image = images.initramfs.read_bytes()
        # The kernel unpacks one archive after the other: the later file takes the name.
        initramfs.write_bytes(image + b"\0" * (-len(image) % 4) + cpio.archive(entries))
        return cls(
            binary=binary,
            kernel=images.kernel_bz,
            initramfs=initramfs,
            toolbox=images.toolbox,
            base=images.base,
        )


class RawMachine:
    """A machine that runs."""

    def __init__(self, parts: Parts, place: Path) -> None:
        place.mkdir()
        self.parts = parts
        self.place = place
        self.restore_s = 0.0
        self._lines: socket.SocketIO | None = None
        with (place / "log").open("wb") as log:
            command = [parts.binary, "--api-socket", str(place / "api")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._http = _Http(place / "api")

    @classmethod
    def boot(cls, parts: Parts, place: Path, mem: int, *, shared: bool) -> Self:
        """Boot, and wait until the agent has run a command. Its memory is the file `ram`, or a private map of it."""
        machine = cls(parts, place)
        with (place / "ram").open("wb") as ram:
            ram.truncate(mem * _MIB)
        zone = {"id": "ram", "size": mem * _MIB, "file": str(place / "ram"), "shared": shared}
        machine.call(
            "vm.create",
            {
                "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
                "memory": {"size": 0, "zones": [zone]},
                "payload": {
                    "kernel": str(parts.kernel),
                    "initramfs": str(parts.initramfs),
                    "cmdline": "console=ttyS0 quiet panic=-1 reboot=k",
                },
                "disks": [
                    {"path": str(path), "readonly": True, "image_type": "Raw"} for path in (parts.toolbox, parts.base)
                ],
                "serial": {"mode": "File", "file": str(place / "console")},
                "console": {"mode": "Off"},
                "rng": {"src": "/dev/urandom"},
                "vsock": {"cid": 3, "socket": str(place / "vsock")},
            },
        )
        machine.call("vm.boot")
        machine.run("true")
        return machine

    @classmethod
    def clone(cls, saved: Path, parts: Parts, place: Path, *, mapped: Path | None) -> Self:
        """Restore a snapshot in a new process.

        Args:
            saved: The snapshot.
            parts: Of the machine that was saved.
            place: The clone's directory; made here.
            mapped: The file of the memory, to be mapped copy-on-write; None copies what the snapshot holds.
        """
        machine = cls(parts, place)
        snapshot = place / "snapshot"
        snapshot.mkdir()
        config = json.loads((saved / "config.json").read_text())
        config["vsock"]["socket"] = str(place / "vsock")
        config["serial"]["file"] = str(place / "console")
        if mapped is not None:
            config["memory"]["zones"][0] |= {"file": str(mapped), "shared": False}
        else:
            (snapshot / "memory-ranges").hardlink_to(saved / "memory-ranges")
        (snapshot / "config.json").write_text(json.dumps(config))
        shutil.copyfile(saved / "state.json", snapshot / "state.json")
        machine.wait()
        began = time.monotonic()
        machine.call("vm.restore", {"source_url": f"file://{snapshot}", "resume": True})
        machine.restore_s = time.monotonic() - began
        return machine

    def save(self, to: Path) -> None:
        """Write a snapshot, and end."""
        to.mkdir()
        self.call("vm.pause")
        self.call("vm.snapshot", {"destination_url": f"file://{to}"})
        self.end()

    def wait(self) -> None:
        """Return once the program takes calls."""
        self._http.wait(self.process)

    def call(self, name: str, body: Mapping[str, Any] | None = None) -> None:
        """Call the program."""
        self.wait()
        self._http.put(name, body)

    def run(self, *command: str) -> str:
        """Run a command in the guest over a connection that is kept; waits for a guest that does not answer yet."""
        end = time.monotonic() + _DEADLINE_S
        while time.monotonic() < end:
            try:
                if self._lines is None:
                    self._lines = _dial(self.place / "vsock")
                self._lines.write(json.dumps(command).encode() + b"\n")
                status, output = json.loads(self._lines.readline())
            except (OSError, ValueError):
                self.hang_up()
                time.sleep(0.005)
                continue
            if status:
                raise SystemExit(f"{command}: {status}")
            return output
        raise SystemExit(f"{self.place} does not answer: {(self.place / 'console').read_text()[-500:]}")

    def hang_up(self) -> None:
        """Close the connection to the agent; the next command makes another."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def end(self) -> None:
        """End the machine."""
        self.hang_up()
        self._http.close()
        self.process.kill()
        self.process.wait()


class _Http(http.client.HTTPConnection):
    """HTTP over a unix socket, with one connection that is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        while self.sock is None:
            try:
                self.connect()
            except OSError:
                self.close()
                if process.poll() is not None:
                    raise SystemExit((self._path.parent / "log").read_text()) from None
                time.sleep(0.002)

    def put(self, name: str, body: Mapping[str, Any] | None) -> None:
        self.request("PUT", f"/api/v1/{name}", None if body is None else json.dumps(body))
        answer = self.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{name}: {answer.status} {said!r}")


def _dial(path: Path) -> socket.SocketIO:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(str(path))
        connection.sendall(b"CONNECT 1024\n")
        lines = connection.makefile("rwb", 0)
    if not lines.readline().startswith(b"OK"):
        lines.close()
        raise OSError
    return lines
