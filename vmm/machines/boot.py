"""Boots a machine from its kernel, which takes seconds: for templates, and for sandboxes with only their disk left."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio

from ..errors import LinkError, Unavailable
from ..guest.link import GuestLink
from ..guest.values import Ping
from ..hypervisor.base import CONSOLE, Hardware, Hypervisor, Ram, Running
from ..images.secret import with_secret
from .checkpoint import DISK, RAM
from .machine import Machine, linked

_DEADLINE_S = 180
_POLL_S = 0.05
_LAST_LINES = 3


async def boot(driver: Hypervisor, hardware: Hardware, directory: Path) -> Machine:
    """Boot a machine from the parts and the disk in its directory, and wait until its agent answers.

    Raises:
        Unavailable: It did not start; the message ends with the last lines of its console.
    """
    secret = secrets.token_bytes(32)
    await anyio.to_thread.run_sync(_renew_initramfs, hardware.initramfs, secret)
    await anyio.Path(directory / RAM).unlink(missing_ok=True)
    ram = Ram(path=directory / RAM, private=False)
    running = await driver.start(directory, hardware, ram=ram, disk=directory / DISK)
    link = linked(driver, running, secret)
    try:
        ping = await _answer(link, running)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await link.aclose()
            await driver.stop(running)
        raise
    return Machine(
        driver=driver,
        running=running,
        link=link,
        hardware=hardware,
        nonce=ping.nonce,
        secret=secret,
        fingerprint=driver.fingerprint,
    )


def _renew_initramfs(initramfs: Path, secret: bytes) -> None:
    made = initramfs.with_suffix(".draft")
    with_secret(initramfs, made, secret)
    made.replace(initramfs)


async def _answer(link: GuestLink, running: Running) -> Ping:
    with anyio.move_on_after(_DEADLINE_S):
        while running.process.alive():
            try:
                return await link.ping(timeout_ms=2000)
            except LinkError:
                await anyio.sleep(_POLL_S)
    how = f"does not answer after {_DEADLINE_S} s" if running.process.alive() else "ended while it booted"
    raise Unavailable(f"The guest {how}; its console ends with: {_last_words(running)}", hint="Run casemate doctor")


def _last_words(running: Running) -> str:
    console = running.directory / CONSOLE
    text = console.read_text(errors="replace").strip() if console.exists() else ""
    return " | ".join(text.splitlines()[-_LAST_LINES:])[-400:] or "nothing"
