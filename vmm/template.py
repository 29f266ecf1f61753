"""A template: a machine booted once, brought to the point where its agent answers, and saved to be cloned.

Its directory holds `ram`, `state`, `disk`, the `initramfs` it booted from, and `template.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import anyio

from .errors import LinkError, Unavailable
from .guest.link import GuestLink
from .guest.values import Command, Identity, Ping
from .hypervisor.base import CONSOLE, Hardware, Hypervisor, Ram, Running
from .images.catalogue import ImageSet
from .images.disk import make_disk
from .images.secret import with_secret
from .spec import DISK

_FORMAT = 2
_MANIFEST = "template.json"
_BOOT_DEADLINE_S = 180
_POLL_S = 0.05
_RATE_INTERVAL_S = 2.0
_RATE_TOLERANCE = 0.005
_TRIES = 3
_LAST_LINES = 3
# What an agent's first commands will touch is brought into the template's memory, which all clones share.
_WARM_UP = "ls -la / >/dev/null; cat /etc/os-release >/dev/null; python3 -c 'import json, subprocess' ; sync; true"
_WARM_UP_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A saved machine, ready to be cloned.

    Attributes:
        directory: Where its files are; they never change.
        hardware: What a clone must be made of.
        secret: The agent's secret at the moment of saving; a clone gets its own at once.
        nonce: The agent's nonce, by which a clone proves that it was restored.
    """

    directory: Path
    hardware: Hardware
    secret: bytes = field(repr=False)
    nonce: str

    @property
    def ram(self) -> Path:
        """The memory at the moment of saving."""
        return self.directory / "ram"

    @property
    def state(self) -> Path:
        """The devices at the moment of saving."""
        return self.directory / "state"

    @property
    def disk(self) -> Path:
        """The writable disk at the moment of saving."""
        return self.directory / "disk"

    @classmethod
    def load(cls, directory: Path, images: ImageSet) -> Self | None:
        """Read a template back; None if there is none."""
        try:
            manifest = json.loads((directory / _MANIFEST).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        hardware = _hardware(directory, images, manifest["cpu"], manifest["mem"], manifest["tsc_khz"])
        secret = bytes.fromhex(manifest["secret"])
        return cls(directory=directory, hardware=hardware, secret=secret, nonce=manifest["nonce"])


def template_key(driver: Hypervisor, images: ImageSet, cpu: int, mem: int) -> str:
    """The template's name: a digest of everything that its saved state depends on."""
    parts = (str(_FORMAT), driver.fingerprint, images.digest, str(cpu), str(mem), _WARM_UP)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


async def build(
    driver: Hypervisor, images: ImageSet, root: Path, key: str, *, cpu: int, mem: int, tsc_khz: int
) -> Template:
    """Boot a machine, check its clock, warm it up, save it. Takes several seconds; leaves nothing behind on failure.

    Args:
        driver: The hypervisor.
        images: Kernel and file systems.
        root: The directory that holds all templates.
        key: The template's name, from `template_key`.
        cpu: Virtual CPUs.
        mem: MiB.
        tsc_khz: Best guess of the host's time-stamp frequency; corrected if the guest's clock runs wrong.

    Raises:
        Unavailable: The guest did not come up, or its clock cannot be made right.
    """
    for _ in range(_TRIES):
        directory = root / f".build-{key}-{secrets.token_hex(4)}"
        directory.mkdir(mode=0o700)
        try:
            rate = await _boot_and_save(driver, images, directory, cpu=cpu, mem=mem, tsc_khz=tsc_khz)
            if rate is None:
                target = root / key
                await anyio.to_thread.run_sync(_publish, directory, target)
                template = Template.load(target, images)
                if template is None:
                    raise Unavailable(f"The template {key} vanished while it was made")
                return template
            tsc_khz = round(tsc_khz * rate)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda at: shutil.rmtree(at, ignore_errors=True), directory)
    raise Unavailable("The guest's clock does not keep the host's time", hint="Run casemate doctor, then try again")


def guess_tsc_khz() -> int:
    """The processor's frequency as the kernel shows it, in kHz: on most hosts that of the time-stamp counter."""
    match = re.search(r"^cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return round(float(match[1]) * 1000) if match else 2_000_000


async def boot(
    driver: Hypervisor, images: ImageSet, directory: Path, *, cpu: int, mem: int, tsc_khz: int
) -> tuple[Running, GuestLink, Ping]:
    """Boot a machine cold into an existing empty directory and wait until its agent answers.

    Raises:
        Unavailable: It did not come up; the message ends with the last lines of its console.
    """
    secret = secrets.token_bytes(32)
    hardware = _hardware(directory, images, cpu, mem, tsc_khz if driver.accelerator == "tcg" else 0)
    await anyio.to_thread.run_sync(with_secret, images.initramfs, hardware.initramfs, secret)
    await make_disk(directory / "disk", DISK)
    ram = Ram(path=directory / "ram", private=False)
    running = await driver.start(directory, hardware, ram=ram, disk=directory / "disk")
    link = GuestLink(lambda: driver.dial(running), secret)
    try:
        ping = await _answer(link, running)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await link.aclose()
            await driver.stop(running)
        raise
    return running, link, ping


async def _boot_and_save(
    driver: Hypervisor, images: ImageSet, directory: Path, *, cpu: int, mem: int, tsc_khz: int
) -> float | None:
    running, link, ping = await boot(driver, images, directory, cpu=cpu, mem=mem, tsc_khz=tsc_khz)
    try:
        if driver.accelerator == "tcg":
            rate = await _clock_rate(link)
            if abs(rate - 1) > _RATE_TOLERANCE:
                return rate
        await link.exec(Command(shell=_WARM_UP, timeout_ms=_WARM_UP_MS), wait_ms=_WARM_UP_MS)
        await link.forget()  # what made the template warm was no command of a clone's owner
        secret = await _rehearse(link)
        # A connection open at the moment of saving would be half open in every clone.
        await link.drop_connections()
        await driver.save(running, directory / "state")
    finally:
        with anyio.CancelScope(shield=True):
            await link.aclose()
            await driver.stop(running)
    told = tsc_khz if driver.accelerator == "tcg" else 0
    manifest = {"cpu": cpu, "mem": mem, "tsc_khz": told, "secret": secret.hex(), "nonce": ping.nonce}
    await anyio.to_thread.run_sync(_write_manifest, directory, manifest)
    return None


async def _rehearse(link: GuestLink) -> bytes:
    """Take on an identity once, so that no clone pays for its first time; returns the agent's secret from now on."""
    secret = secrets.token_bytes(32)
    identity = Identity(
        entropy=secrets.token_bytes(64),
        clock_ns=time.time_ns(),
        machine_id=secrets.token_hex(16),
        hostname="template",
        secret=secret,
    )
    await link.identify(identity)
    return secret


async def _answer(link: GuestLink, running: Running) -> Ping:
    with anyio.move_on_after(_BOOT_DEADLINE_S):
        while running.process.alive():
            try:
                return await link.ping(timeout_ms=2000)
            except LinkError:
                await anyio.sleep(_POLL_S)
    how = f"does not answer after {_BOOT_DEADLINE_S} s" if running.process.alive() else "ended while it booted"
    raise Unavailable(f"The guest {how}; its console ends with: {_last_words(running)}", hint="Run casemate doctor")


def _last_words(running: Running) -> str:
    console = running.directory / CONSOLE
    text = console.read_text(errors="replace").strip() if console.exists() else ""
    return " | ".join(text.splitlines()[-_LAST_LINES:])[-400:] or "nothing"


async def _clock_rate(link: GuestLink) -> float:
    """How fast the guest's clock runs against the host's: 1.0 is right."""
    guest_start, host_start = await _instant(link)
    await anyio.sleep(_RATE_INTERVAL_S)
    guest_end, host_end = await _instant(link)
    return (guest_end - guest_start) / (host_end - host_start)


async def _instant(link: GuestLink) -> tuple[float, float]:
    # The quickest of a few round trips bounds the error best.
    best: tuple[int, float, float] | None = None
    for _ in range(5):
        before = time.monotonic_ns()
        ping = await link.ping()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = after - before, float(ping.monotonic_ns), (before + after) / 2
    assert best is not None
    return best[1], best[2]


def _hardware(directory: Path, images: ImageSet, cpu: int, mem: int, tsc_khz: int) -> Hardware:
    return Hardware(
        cpu=cpu,
        mem=mem,
        kernel_elf=images.kernel_elf,
        kernel_bz=images.kernel_bz,
        initramfs=directory / "initramfs",
        toolbox=images.toolbox,
        base=images.base,
        tsc_khz=tsc_khz,
    )


def _write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    descriptor = os.open(directory / _MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(manifest, file)


def _publish(directory: Path, target: Path) -> None:
    for file in directory.iterdir():
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    if target.exists():
        shutil.rmtree(target)
    directory.rename(target)
