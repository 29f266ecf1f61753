"""One running virtual machine: its directory, its hypervisor process, and the link to its guest.

Everything about a machine is in its directory, so that a new server finds it again: `machine.json` names the process
and holds the agent's secret, `disk` is its writable disk, `parts` are what it was made from, `ram` is its memory if
that has a file of its own, and `mapped` the memory that it shares with others.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import anyio
import structlog

from ..disk.copy import copy_sparse
from ..disk.os_errors import translate_os_errors
from ..disk.record_file import FORMAT, RecordFile
from ..errors import Conflict, Unavailable
from ..guest.link import GuestLink
from ..guest.values import Identity
from ..hypervisor.base import Hardware, Hypervisor, Memory, Ram, Running
from ..hypervisor.nic import Nic
from ..hypervisor.process import ProcessRef
from .checkpoint import DISK, RAM, Checkpoint, hardware_in, link, link_parts, sizes, sizes_of, write_private

log = structlog.get_logger(__name__)

_RECORD = "machine.json"
_FORMAT = 1
_HINT = "Start the sandbox, from its disk or a snapshot, or delete it"
_MAPPED = "mapped"
_CLOCK_TOLERANCE_NS = 5 * 10**9
_ENTROPY_BYTES = 64
_HOSTNAME_LENGTH = 63


@dataclass(slots=True, kw_only=True)
class Machine:
    """A running machine.

    Attributes:
        driver: Its hypervisor.
        running: The process and how to reach the guest.
        link: The host's end of the guest link.
        hardware: The parts it was made from.
        nonce: The agent's, which exists only in the guest's memory, and so identifies that memory.
        secret: The secret that the agent and the host share.
        fingerprint: The driver whose process holds the memory; for an adopted machine, that of an earlier server.
        machine_id, hostname: The guest's identity, 32 hex digits and a name.
        misaddressed: Whether the guest still has the address of a network that this server does not have; see
            `readdress`.
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
    misaddressed: bool = False

    @property
    def directory(self) -> Path:
        """The directory with everything about it."""
        return self.running.directory

    @property
    def disk(self) -> Path:
        """Its writable disk."""
        return self.directory / DISK

    @property
    def ram(self) -> Path:
        """Its memory, if that has a file of its own."""
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
        """Make a machine from a checkpoint: a new process with that memory, a disk of its own, a new identity.

        The directory must not exist; nothing of it is left if the clone fails.

        Args:
            driver: The hypervisor that saved it.
            checkpoint: What to make it from.
            directory: The new machine's directory.
            hostname: The guest's name, up to the first dot.
            machine_id: 32 hex digits; a new one if empty.
            own: Whether it gets a copy of the memory at once, instead of mapping it copy-on-write.

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
        """Adopt a machine that an earlier server started; None if it no longer runs.

        Raises:
            Damaged: Its record cannot be read.
        """
        record = await anyio.to_thread.run_sync(MachineRecord.read, directory)
        if record is None or not record.process.alive():
            return None
        running = Running(
            directory=directory, process=record.process, port=record.port, memory=record.memory, nic=record.nic
        )
        try:
            await driver.adopt(running, record.hardware)
        except Conflict as error:
            log.warning("machine has to do without its network device", machine=directory.name, reason=error.message)
            running = replace(running, nic=None)
            await driver.adopt(running, record.hardware)
        machine = cls.recorded(driver, running, record)
        machine.misaddressed = running.nic != record.nic
        return machine

    @classmethod
    def recorded(cls, driver: Hypervisor, running: Running, record: MachineRecord) -> Self:
        """Return a running machine as its record describes it."""
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
        """Give the guest an identity and have it prove that it took it; the caller calls `save_record`.

        Args:
            hostname: The guest's name, up to the first dot.
            machine_id: 32 hex digits; a new one if empty.
            secret: The secret of the agent and the host from now on; a new one if empty.

        Raises:
            Unavailable: It could not prove it, and must not be used.
            LinkError: The guest does not answer.
        """
        identity = Identity(
            entropy=secrets.token_bytes(_ENTROPY_BYTES),
            machine_id=machine_id or secrets.token_hex(16),
            hostname=hostname.partition(".")[0][:_HOSTNAME_LENGTH],
            secret=secret or secrets.token_bytes(32),
            nic=None if self.running.nic is None else self.running.nic.texts(),
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
                ("network address", proof.nic == identity.nic),
                # More than the tolerance, in case the exchange took long on a busy host.
                ("clock", begun_ns - _CLOCK_TOLERANCE_NS < proof.clock_ns < told_ns + _CLOCK_TOLERANCE_NS),
            )
            if not right
        ]
        if wrong:
            raise Unavailable(f"A new machine could not prove its {', '.join(wrong)}; it was destroyed")
        self.secret, self.machine_id, self.hostname = identity.secret, identity.machine_id, identity.hostname
        self.misaddressed = False

    async def readdress(self) -> None:
        """Have a guest that was adopted without its network device use the way over the link. A no-op for others.

        Raises:
            Unavailable: It could not prove it.
            LinkError: The guest does not answer.
        """
        if self.misaddressed:
            await self.assign_identity(self.hostname, self.machine_id, secret=self.secret)
            await self.save_record()

    async def save_record(self) -> None:
        """Write into its directory what a later server needs to adopt it.

        Raises:
            HostExhausted: The host's disk is full; the earlier record stays.
            Unavailable: The host refuses it; the earlier record stays.
        """
        with translate_os_errors("a machine's record", self.directory):
            await anyio.to_thread.run_sync(MachineRecord.of(self).write, self.directory)

    async def stop(self) -> None:
        """End the machine at once; its files stay. A no-op if it has ended.

        Raises:
            Unavailable: The kernel does not end its process in time; call again.
        """
        with translate_os_errors("stopping a machine", self.directory):
            await self.link.aclose()
            await self.driver.stop(self.running)

    async def ended(self) -> str:
        """Wait until the machine ends, and explain to its owner why it did."""
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
    """The record of a machine in its directory, whether it runs or sleeps."""

    process: ProcessRef
    port: int
    memory: Memory
    hardware: Hardware
    nonce: str
    secret: bytes = field(repr=False)
    machine_id: str
    hostname: str
    fingerprint: str
    nic: Nic | None = None

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """Make the record of a running machine."""
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
            nic=machine.running.nic,
        )

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read the record in a directory; None if there is none. Blocks on the disk.

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
            nic=_nic(written),
        )

    def write(self, directory: Path) -> None:
        """Write the record completely or not at all. Blocks on the disk."""
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
            "nic": {} if self.nic is None else self.nic.texts(),
        }
        write_private(directory / _RECORD, json.dumps(values))


def _nic(written: RecordFile) -> Nic | None:
    texts = written.texts("nic")  # earlier releases wrote none
    try:
        return Nic.of(texts) if texts else None
    except ValueError as error:
        raise written.damaged(f"its network device cannot be read: {error}") from None


def linked(driver: Hypervisor, running: Running, secret: bytes) -> GuestLink:
    """Make the host's end of the link to a guest."""
    return GuestLink(lambda: driver.dial(running), secret)


async def remove(directory: Path) -> None:
    """Remove a machine's directory with everything in it; a no-op if there is none.

    Raises:
        Unavailable: The host refuses it; call again.
    """
    with translate_os_errors("removing a machine", directory):
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
        # There was nothing, or another call has removed a part of it: look again.
        if directory.exists():
            _remove(directory)
