"""One running virtual machine: its directory, its hypervisor's process, and the link to its guest.

Everything about a machine lies in its directory, so that a new server finds it again: `machine.json` names the process
and holds the agent's secret, `disk` is its writable disk.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anyio

from .disks import copy_sparse
from .errors import Unavailable
from .guest.link import GuestLink
from .guest.values import Identity
from .hypervisor.base import Hypervisor, Ram, Running
from .hypervisor.process import ProcessRef
from .template import Template

_RECORD = "machine.json"
_DISK = "disk"
_CLOCK_TOLERANCE_NS = 5 * 10**9
_ENTROPY_BYTES = 64
_HOSTNAME_LENGTH = 63


@dataclass(slots=True)
class Machine:
    """A machine that runs.

    Attributes:
        driver: Its hypervisor.
        running: The process and the way to the guest.
        link: The host's end of the guest link.
    """

    driver: Hypervisor
    running: Running
    link: GuestLink

    @classmethod
    async def clone(cls, driver: Hypervisor, template: Template, directory: Path, *, hostname: str) -> Self:
        """Make a machine from a template: a new process on the template's memory, a disk of its own, a new identity.

        The directory must not exist; nothing of it is left if the clone fails.

        Raises:
            HostExhausted: The host's disk is full.
            Unavailable: The hypervisor failed, or the clone could not prove its new identity.
            LinkError: The guest does not answer.
        """
        machine: Self | None = None
        try:
            await anyio.Path(directory).mkdir(mode=0o700)
            disk = directory / _DISK
            await copy_sparse(template.disk, disk)
            ram = Ram(path=template.ram, private=True)
            running = await driver.restore(directory, template.hardware, ram=ram, disk=disk, state=template.state)
            machine = cls._linked(driver, running, template.secret)
            await machine._become(hostname, template.nonce)
        except BaseException:
            with anyio.CancelScope(shield=True):
                if machine is not None:
                    await machine.stop()
                await remove(directory)
            raise
        return machine

    @classmethod
    def adopt(cls, driver: Hypervisor, directory: Path) -> Self | None:
        """Take over a machine that an earlier server started; None if it does not run any more."""
        try:
            record = json.loads((directory / _RECORD).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        process = ProcessRef(record["pid"], record["started"])
        if not process.alive():
            return None
        running = Running(directory=directory, process=process, port=record["port"])
        return cls._linked(driver, running, bytes.fromhex(record["secret"]))

    async def stop(self) -> None:
        """End the machine at once; its files stay. A no-op if it has ended."""
        await self.link.aclose()
        await self.driver.stop(self.running)

    async def ended(self) -> str:
        """Wait for the machine's end and tell why it ended, in words for its owner."""
        status = await self.running.process.ended()
        if status is None:
            return "its virtual machine ended"
        if status < 0:
            return f"its virtual machine was ended by signal {-status} on the host"
        if status == 0:
            return "its virtual machine shut down or crashed from inside"
        return f"its virtual machine failed with exit status {status}"

    @classmethod
    def _linked(cls, driver: Hypervisor, running: Running, secret: bytes) -> Self:
        return cls(driver, running, GuestLink(lambda: driver.dial(running), secret))

    async def _become(self, hostname: str, nonce: str) -> None:
        identity = Identity(
            entropy=secrets.token_bytes(_ENTROPY_BYTES),
            clock_ns=time.time_ns(),
            machine_id=secrets.token_hex(16),
            hostname=hostname.partition(".")[0][:_HOSTNAME_LENGTH],
            secret=secrets.token_bytes(32),
        )
        proof = await self.link.identify(identity)
        wrong = [
            what
            for what, right in (
                ("memory", proof.nonce == nonce),
                ("entropy", proof.entropy_mixed),
                ("machine id", proof.machine_id == identity.machine_id),
                ("host name", proof.hostname == identity.hostname),
                ("clock", abs(proof.clock_ns - time.time_ns()) < _CLOCK_TOLERANCE_NS),
            )
            if not right
        ]
        if wrong:
            raise Unavailable(f"A new machine could not prove its own {', '.join(wrong)}; it was destroyed")
        process = self.running.process
        record = {
            "pid": process.pid,
            "started": process.started,
            "port": self.running.port,
            "secret": identity.secret.hex(),
        }
        await anyio.to_thread.run_sync(_write_private, self.running.directory / _RECORD, json.dumps(record))


async def remove(directory: Path) -> None:
    """Remove a machine's directory with everything in it; a no-op if there is none."""
    await anyio.to_thread.run_sync(_remove, directory)


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        # Nothing was there, or another remover was quicker with a part of it: look again.
        if directory.exists():
            _remove(directory)


def _write_private(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.rename(path)
