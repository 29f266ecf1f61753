"""A template: a machine booted once, until its agent answers, and saved to be cloned."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

import anyio

from ..errors import Unavailable
from ..guest.link import GuestLink
from ..guest.values import Command
from ..hypervisor.base import Hardware, Hypervisor
from ..images.catalogue import ImageSet
from ..images.disk import make_disk
from ..sandboxes.spec import DISK
from . import boot
from .certificates import NO_CERTIFICATES, Certificates
from .checkpoint import DISK as DISK_FILE
from .checkpoint import Checkpoint, link_parts
from .machine import Machine

_FORMAT = 4
_RATE_INTERVAL_S = 2.0
_RATE_TOLERANCE = 0.005
_TRIES = 3
# Files of an agent's first commands, read into the template's memory, which all clones share.
_WARM_UP = """
ls -la / >/dev/null
cat /etc/os-release >/dev/null
python3 -c 'import json, subprocess'
if command -v node >/dev/null; then
  file=$(mktemp --suffix=.cts)
  echo 'const types: number = 1' >"$file"
  node "$file"
  rm "$file"
fi
sync
"""
_WARM_UP_MS = 60_000


def template_key(
    driver: Hypervisor, images: ImageSet, cpu: int, mem: int, certificates: Certificates = NO_CERTIFICATES
) -> str:
    """Name a template: a digest of everything that its saved state depends on."""
    parts = [str(_FORMAT), driver.fingerprint, images.digest, str(cpu), str(mem), _WARM_UP, certificates.digest]
    if driver.nics is not None:
        parts.append("nic")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


async def build(
    driver: Hypervisor,
    images: ImageSet,
    root: Path,
    key: str,
    *,
    cpu: int,
    mem: int,
    tsc_khz: int,
    rate_known: bool = False,
    certificates: Certificates = NO_CERTIFICATES,
) -> Checkpoint:
    """Boot a machine, check its clock, warm it up, save it. Takes several seconds; leaves nothing behind on failure.

    Args:
        driver: The hypervisor.
        images: The kernel and file systems.
        root: The directory that holds all templates.
        key: The template's name, from `template_key`.
        cpu: Virtual CPUs.
        mem: MiB.
        tsc_khz: Best guess of the host's time-stamp frequency; corrected if the guest's clock is wrong.
        rate_known: Whether that frequency was measured on this host already, so that it need not be checked again.
        certificates: Authorities that the guest shall trust besides Debian's.

    Raises:
        Unavailable: The guest did not start, or its clock cannot be corrected.
    """
    for _ in range(_TRIES):
        directory = root / f".build-{key}-{secrets.token_hex(4)}"
        directory.mkdir(mode=0o700)
        try:
            machine = await boot_image(driver, images, directory, cpu=cpu, mem=mem, tsc_khz=tsc_khz)
            rate = await _prepare_and_save(machine, directory, certificates, check_rate=not rate_known)
            if rate is None:
                target = root / key
                await anyio.to_thread.run_sync(_publish, directory, target)
                template = await anyio.to_thread.run_sync(Checkpoint.load, target)
                if template is None:
                    raise Unavailable(f"The template {key} was removed while it was built")
                return template
            tsc_khz = round(tsc_khz * rate)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda at: shutil.rmtree(at, ignore_errors=True), directory)
    raise Unavailable("The guest's clock runs at the wrong rate", hint="Run casemate doctor, then try again")


def guess_tsc_khz() -> int:
    """Read the processor's frequency in kHz: on most hosts, that of the time-stamp counter."""
    match = re.search(r"^cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return round(float(match[1]) * 1000) if match else 2_000_000


async def boot_image(
    driver: Hypervisor, images: ImageSet, directory: Path, *, cpu: int, mem: int, tsc_khz: int
) -> Machine:
    """Boot a machine from an image into an existing empty directory, with an empty disk.

    It has a network device if the driver makes taps.

    Raises:
        Unavailable: It did not start; the message ends with the last lines of its console.
    """
    image = Hardware(
        cpu=cpu,
        mem=mem,
        kernel_elf=images.kernel_elf,
        kernel_bz=images.kernel_bz,
        initramfs=images.initramfs,
        toolbox=images.toolbox,
        base=images.base,
        tsc_khz=tsc_khz if driver.accelerator == "tcg" else 0,
        nic=driver.nics is not None,
        takes_nic=True,
        volumes=True,
    )
    hardware = await anyio.to_thread.run_sync(link_parts, image, directory)
    await make_disk(directory / DISK_FILE, DISK)
    return await boot.boot(driver, hardware, directory)


async def _prepare_and_save(
    machine: Machine, directory: Path, certificates: Certificates, *, check_rate: bool
) -> float | None:
    driver, link = machine.driver, machine.link
    try:
        if driver.accelerator == "tcg" and check_rate:
            rate = await _clock_rate(link)
            if abs(rate - 1) > _RATE_TOLERANCE:
                return rate
        await certificates.install(link)
        await link.exec(Command(shell=_WARM_UP, timeout_ms=_WARM_UP_MS), wait_ms=_WARM_UP_MS)
        await link.forget()  # the commands that prepared it belong to no owner of a clone
        # Once here, so that no clone pays for the first time.
        await machine.assign_identity("template")
        # A connection that is open while saving would be half open in every clone.
        await link.drop_connections()
        await driver.save(machine.running, directory)
    finally:
        with anyio.CancelScope(shield=True):
            await machine.stop()
    checkpoint = Checkpoint(
        directory=directory,
        hardware=machine.hardware,
        secret=machine.secret,
        nonce=machine.nonce,
        fingerprint=machine.fingerprint,
    )
    await anyio.to_thread.run_sync(checkpoint.write)
    return None


async def _clock_rate(link: GuestLink) -> float:
    """Measure the rate of the guest's clock against the host's: 1.0 is right."""
    guest_start, host_start = await _instant(link)
    await anyio.sleep(_RATE_INTERVAL_S)
    guest_end, host_end = await _instant(link)
    return (guest_end - guest_start) / (host_end - host_start)


async def _instant(link: GuestLink) -> tuple[float, float]:
    # The fastest of a few round trips has the smallest error.
    best: tuple[int, float, float] | None = None
    for _ in range(5):
        before = time.monotonic_ns()
        ping = await link.ping()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = after - before, float(ping.monotonic_ns), (before + after) / 2
    assert best is not None
    return best[1], best[2]


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
