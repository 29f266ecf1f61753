"""One running virtual machine: its directory, its hypervisor's process, and the link to its guest.

Everything about a machine lies in its directory, so that a new server finds it again: `machine.json` names the process
and holds the agent's secret, `disk` is its writable disk, `parts` are what it was made of, `ram` is its memory where
that has a file of its own, and `mapped` the memory that it shares with others.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import anyio

from ..disk.copy import copy_sparse
from ..disk.os_errors import translate_os_errors
from ..disk.record_file import FORMAT, RecordFile
from ..errors import Unavailable
from ..guest.link import GuestLink
from ..guest.values import Identity
from ..hypervisor.base import Hardware, Hypervisor, Memory, Ram, Running
from ..hypervisor.process import ProcessRef
from .checkpoint import DISK, RAM, Checkpoint, hardware_in, link, link_parts, sizes, sizes_of, write_private

_RECORD = "machine.json"
_FORMAT = 1
_HINT = "Start the sandbox, from its disk or a snapshot, or delete it"
_MAPPED = "mapped"
_CLOCK_TOLERANCE_NS = 5 * 10**9
_ENTROPY_BYTES = 64
_HOSTNAME_LENGTH = 63


@dataclass(slots=True, kw_only=True)
class Machine:
    """A machine that runs.

    Attributes:
        driver: Its hypervisor.
        running: The process and the way to the guest.
        link: The host's end of the guest link.
        hardware: What it is made of.
        nonce: The agent's, which lives in the guest's memory alone: the same as long as that memory lasts.
        secret: What the agent and the host know.
        fingerprint: Of the driver whose process holds the memory: an adopted machine's is that of an earlier server.
        machine_id, hostname: What the guest is called, 32 hex digits and a name.
    """

    driver: Hypervisor
    running: Running
    link: GuestLink
    hardware: Hardware
    nonce: str
    secret: bytes = field(repr=False)
    fingerprint: str
    machine_id: str = ""
    hostname: str = ""

    @property
    def directory(self) -> Path:
        """Where everything about it lies."""
        return self.running.directory

    @property
    def disk(self) -> Path:
        """Its writable disk."""
        return self.directory / DISK

    @property
    def ram(self) -> Path:
        """Its memory, where that has a file of its own."""
        return self.directory / RAM

    @classmethod
    async def clone(
        cls,
        driver: Hypervisor,
        checkpoint: Checkpoint,
        directory: Path,
        *,
        hostname: str,
        machine_id: str = "",
        own: bool = False,
    ) -> Self:
        """Make a machine from a saved moment: a new process on that memory, a disk of its own, a new identity.

        The directory must not exist; nothing of it is left if the clone fails.

        Args:
            driver: The hypervisor that saved it.
            checkpoint: The moment.
            directory: The new machine's.
            hostname: What the guest is called; what stands before the first dot.
            machine_id: 32 hex digits; a new one if empty.
            own: Whether it gets a copy of the memory at once, rather than mapping it copy-on-write.

        Raises:
            HostExhausted: The host's disk is full, or it lacks something else.
            Unavailable: The hypervisor failed, or the clone could not prove its new identity.
            LinkError: The guest does not answer.
        """
        with translate_os_errors("a new machine", directory):
            return await cls._clone(driver, checkpoint, directory, hostname, machine_id, own)

    @classmethod
    async def _clone(
        cls, driver: Hypervisor, checkpoint: Checkpoint, directory: Path, hostname: str, machine_id: str, own: bool
    ) -> Self:
        machine: Self | None = None
        try:
            await anyio.Path(directory).mkdir(mode=0o700)
            hardware = await anyio.to_thread.run_sync(link_parts, checkpoint.hardware, directory)
            ram = await _memory(checkpoint, directory, own=own)
            disk = directory / DISK
            running = await driver.restore(
                directory,
                hardware,
                ram=ram,
                disk=disk,
                state=checkpoint.state,
                fill=lambda: copy_sparse(checkpoint.disk, disk),
            )
            machine = cls(
                driver=driver,
                running=running,
                link=linked(driver, running, checkpoint.secret),
                hardware=hardware,
                nonce=checkpoint.nonce,
                secret=checkpoint.secret,
                fingerprint=driver.fingerprint,
            )
            await machine.assign_identity(hostname, machine_id)
            await machine.save_record()
        except BaseException:
            with anyio.CancelScope(shield=True):
                if machine is not None:
                    await machine.stop()
                await remove(directory)
            raise
        return machine

    @classmethod
    async def adopt(cls, driver: Hypervisor, directory: Path) -> Self | None:
        """Take over a machine that an earlier server started; None if it does not run any more.

        Raises:
            Damaged: Its record cannot be read.
        """
        record = await anyio.to_thread.run_sync(MachineRecord.read, directory)
        if record is None or not record.process.alive():
            return None
        running = Running(directory=directory, process=record.process, port=record.port, memory=record.memory)
        await driver.adopt(running, record.hardware)
        return cls.recorded(driver, running, record)

    @classmethod
    def recorded(cls, driver: Hypervisor, running: Running, record: MachineRecord) -> Self:
        """A machine that runs, and is what its record says."""
        return cls(
            driver=driver,
            running=running,
            link=linked(driver, running, record.secret),
            hardware=record.hardware,
            nonce=record.nonce,
            secret=record.secret,
            fingerprint=record.fingerprint,
            machine_id=record.machine_id,
            hostname=record.hostname,
        )

    async def assign_identity(self, hostname: str, machine_id: str = "", *, secret: bytes = b"") -> None:
        """Give the guest an identity and have it prove that it took it on; `save_record` is the caller's.

        Args:
            hostname: What the guest is called; what stands before the first dot.
            machine_id: 32 hex digits; a new one if empty.
            secret: What the agent and the host know from now on; a new one if empty.

        Raises:
            Unavailable: It could not prove it, so it must not be used.
            LinkError: The guest does not answer.
        """
        identity = Identity(
            entropy=secrets.token_bytes(_ENTROPY_BYTES),
            machine_id=machine_id or secrets.token_hex(16),
            hostname=hostname.partition(".")[0][:_HOSTNAME_LENGTH],
            secret=secret or secrets.token_bytes(32),
        )
        begun_ns = time.time_ns()
        proof = await self.link.identify(identity)
        told_ns = time.time_ns()
        wrong = [
            what
            for what, right in (
                ("memory", proof.nonce == self.nonce),
                ("entropy", proof.entropy_mixed),
                ("machine id", proof.machine_id == identity.machine_id),
                ("host name", proof.hostname == identity.hostname),
                # However long that took on a busy host.
                ("clock", begun_ns - _CLOCK_TOLERANCE_NS < proof.clock_ns < told_ns + _CLOCK_TOLERANCE_NS),
            )
            if not right
        ]
        if wrong:
            raise Unavailable(f"A new machine could not prove its own {', '.join(wrong)}; it was destroyed")
        self.secret, self.machine_id, self.hostname = identity.secret, identity.machine_id, identity.hostname

    async def save_record(self) -> None:
        """Write into its directory what a later server needs to take it over.

        Raises:
            HostExhausted: The host's disk is full; what stood there stands.
            Unavailable: The host refuses it, likewise.
        """
        with translate_os_errors("a machine's record", self.directory):
            await anyio.to_thread.run_sync(MachineRecord.of(self).write, self.directory)

    async def stop(self) -> None:
        """End the machine at once; its files stay. A no-op if it has ended.

        Raises:
            Unavailable: The kernel does not end its process in time; call again.
        """
        with translate_os_errors("the end of a machine", self.directory):
            await self.link.aclose()
            await self.driver.stop(self.running)

    async def ended(self) -> str:
        """Wait for the machine's end and tell why it ended, in words for its owner."""
        status = await self.running.process.ended()
        if why := await self.driver.why_killed(self.running):
            return why
        if status is None:
            return "its virtual machine ended"
        if status < 0:
            return f"its virtual machine was ended by signal {-status} on the host"
        if status == 0:
            return "its virtual machine shut down or crashed from inside"
        return f"its virtual machine failed with exit status {status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """What stands about a machine in its directory, whether it runs or sleeps."""

    process: ProcessRef
    port: int
    memory: Memory
    hardware: Hardware
    nonce: str
    secret: bytes = field(repr=False)
    machine_id: str
    hostname: str
    fingerprint: str

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """The record of a machine that runs."""
        return cls(
            process=machine.running.process,
            port=machine.running.port,
            memory=machine.running.memory,
            hardware=machine.hardware,
            nonce=machine.nonce,
            secret=machine.secret,
            machine_id=machine.machine_id,
            hostname=machine.hostname,
            fingerprint=machine.fingerprint,
        )

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The record in a directory; None if there is none. Blocks for as long as a disk does.

        Raises:
            Damaged: It cannot be read.
        """
        written = RecordFile.read(directory / _RECORD, newest=_FORMAT, hint=_HINT)
        if written is None:
            return None
        memory = written.text("memory")
        if memory not in set(Memory):
            raise written.damaged("its memory is of a kind that this release does not know")
        return cls(
            process=ProcessRef(written.number("pid"), written.number("started")),
            port=written.number("port"),
            memory=Memory(memory),
            hardware=hardware_in(directory, **sizes_of(written)),
            nonce=written.text("nonce"),
            secret=written.secret("secret"),
            machine_id=written.text("machine_id"),
            hostname=written.text("hostname"),
            fingerprint=written.text("fingerprint"),
        )

    def write(self, directory: Path) -> None:
        """Write it, all of it or nothing. Blocks for as long as a disk does."""
        values = {
            FORMAT: _FORMAT,
            "pid": self.process.pid,
            "started": self.process.started,
            "port": self.port,
            "memory": self.memory.value,
            "hardware": sizes(self.hardware),
            "nonce": self.nonce,
            "secret": self.secret.hex(),
            "machine_id": self.machine_id,
            "hostname": self.hostname,
            "fingerprint": self.fingerprint,
        }
        write_private(directory / _RECORD, json.dumps(values))


def linked(driver: Hypervisor, running: Running, secret: bytes) -> GuestLink:
    """The host's end of the link to a guest."""
    return GuestLink(lambda: driver.dial(running), secret)


async def remove(directory: Path) -> None:
    """Remove a machine's directory with everything in it; a no-op if there is none.

    Raises:
        Unavailable: The host refuses it; call again.
    """
    with translate_os_errors("the removal of a machine", directory):
        await anyio.to_thread.run_sync(_remove, directory)


async def _memory(checkpoint: Checkpoint, directory: Path, *, own: bool) -> Ram:
    if own:
        await copy_sparse(checkpoint.ram, directory / RAM, reserved=True)
        return Ram(path=directory / RAM, private=False)
    await anyio.to_thread.run_sync(link, checkpoint.ram, directory / _MAPPED)
    return Ram(path=directory / _MAPPED, private=True)


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        # Nothing was there, or another remover was quicker with a part of it: look again.
        if directory.exists():
            _remove(directory)
