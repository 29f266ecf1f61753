"""A driver whose machines are processes of this host that run the real agent, for fast tests of a real fleet.

Machines use the host's files, programs and processors, so their disks stay empty and a restore does not bring back
programs. Otherwise it behaves as a hypervisor: a restored machine proves itself by what was saved.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import ByteStream

from tests.vmm.guest.agents import users_at
from tests.waiting import PATIENCE_S
from vmm.errors import LinkError, Unavailable
from vmm.hypervisor.base import LOG, Fill, Hardware, Memory, Ram, Running
from vmm.hypervisor.nic import Nic, Nics
from vmm.hypervisor.process import ProcessRef
from vmm.hypervisor.volume_disk import VolumeDisk
from vmm.hypervisor.wire import adopt_wire, release_wire, wired

_PROGRAM = Path(__file__).with_name("host_machine.py")
_NONCE, _PORT, _RAM, _SECRET, _STATE = "nonce", "port", "ram", "secret", "state"
_END_S = 10


class HostDriver:
    """Processes of this host instead of virtual machines.

    What an agent remembers is its machine's memory: the secret, in the file behind it, and the nonce, in the saved
    state. Memory that is mapped copy-on-write is a copy in the machine's directory.

    Args:
        home: Where the agents' commands have their home.
        nics: Makes the taps of machines that have a network device, which only their agents' certificates show.
        within: A command that runs another one, such as the agent's, in surroundings of its own.
    """

    name = "host"
    accelerator = "kvm"
    own_memory = False
    fingerprint = "host-1"

    def __init__(self, home: Path, nics: Nics | None = None, *, within: Sequence[str] = ()) -> None:
        self.nics = nics
        self._within = within
        self._users = users_at(home)
        self._env = {**os.environ, "HOME": str(home)}
        self._begun: list[ProcessRef] = []

    async def probe(self) -> None:
        """Do nothing: every host can start processes."""

    async def start(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path) -> Running:
        """Start an agent that knows only the secret in the initramfs. Empties the disk."""
        size = disk.stat().st_size
        for length in (0, size):
            os.truncate(disk, length)
        _write(ram.path, _first_secret(hardware.initramfs))
        _write(directory / _NONCE, secrets.token_hex(16))
        async with wired(self.nics, directory, hardware) as (nic, _):
            return await self._started(directory, Memory.BOOTED, nic)

    async def restore(
        self,
        directory: Path,
        hardware: Hardware,
        *,
        ram: Ram,
        disk: Path,
        state: Path,
        fill: Fill | None = None,
        run: bool = True,
    ) -> Running:
        """Start an agent with the saved memory; without `run`, its process is stopped."""
        if fill is not None:
            await fill()
        if ram.private:
            shutil.copyfile(ram.path, directory / _SECRET)
        shutil.copyfile(state, directory / _NONCE)
        async with wired(self.nics, directory, hardware) as (nic, _):
            return await self._started(directory, Memory.MAPPED if ram.private else Memory.OWN, nic, run=run)

    async def save(self, machine: Running, target: Path) -> None:
        """Stop the processes, and save the agent's memory."""
        self._signal(machine, signal.SIGSTOP)
        processes = machine.process, *guest_of(machine.process)
        while any(process.alive() and not _is_stopped(process) for process in processes):
            await anyio.sleep(0.001)
        shutil.copyfile(machine.directory / _NONCE, target / _STATE)
        if not machine.memory.in_file:
            shutil.copyfile(machine.directory / _SECRET, target / _RAM)

    async def settle(self, target: Path, hardware: Hardware, *, disk: Path) -> None:
        """Do nothing: `save` has written everything."""

    async def adopt(self, machine: Running, hardware: Hardware) -> None:
        """Take over the machine's tap; it is not confined."""
        await adopt_wire(self.nics, machine)

    async def stop(self, machine: Running) -> None:
        """Let the agent kill its commands and end, which ends the machine."""
        await _end(machine.process, guest_of(machine.process))
        await release_wire(self.nics, machine.directory)

    async def why_killed(self, machine: Running) -> str:
        """Return nothing: the processes have no limits."""
        return ""

    async def problem(self, machine: Running) -> str:
        """Tell whether the machine's process is stopped, regardless of the guest's."""
        return "the machine is stopped" if _is_stopped(machine.process) else ""

    async def resume(self, machine: Running) -> None:
        """Continue the processes."""
        self._signal(machine, signal.SIGCONT)
        await self._up(machine.directory, machine.process)

    async def plug(self, machine: Running, disk: VolumeDisk) -> None:
        """Refuse: a process has no disks."""
        raise Unavailable(f"A process takes no disk {disk.serial}: {machine.process.pid}")

    async def unplug(self, machine: Running, serial: str) -> None:
        """Do nothing: there is no disk."""

    async def plugged(self, machine: Running) -> frozenset[str]:
        """Return nothing."""
        del machine
        return frozenset()

    async def dial(self, machine: Running) -> ByteStream:
        """Connect to the agent."""
        try:
            return await anyio.connect_tcp("127.0.0.1", int((machine.directory / _PORT).read_text()))
        except OSError as error:
            raise LinkError("The agent does not listen") from error

    async def end(self) -> None:
        """End all machines that still run."""
        for process in self._begun:
            await _end(process, guest_of(process))

    async def _started(self, directory: Path, memory: Memory, nic: Nic | None, *, run: bool = True) -> Running:
        (directory / _PORT).unlink(missing_ok=True)
        process = self._spawn(directory, directory / (_RAM if memory.in_file else _SECRET))
        if run:
            await self._up(directory, process)
        else:
            os.kill(process.pid, signal.SIGSTOP)
        return Running(directory=directory, process=process, port=0, memory=memory, nic=nic)

    def _spawn(self, directory: Path, secret: Path) -> ProcessRef:
        options = ["--listen", "127.0.0.1:0", "--port-file", directory / _PORT, "--secret-file", secret]
        options += ["--outputs", directory]
        with (directory / LOG).open("ab") as log:
            program = subprocess.Popen(
                [*self._within, sys.executable, "-I", "-S", "-B", "-u", _PROGRAM, (directory / _NONCE).read_text(),
                 *options, "--users-file", self._users, "--no-identity-privileges"],
                cwd=directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        # From here on `ProcessRef` alone waits for it.
        program.returncode = 0
        process = ProcessRef.of(program.pid) or ProcessRef(program.pid, 0)
        self._begun.append(process)
        return process

    async def _up(self, directory: Path, process: ProcessRef) -> None:
        """Wait until the agent listens."""
        try:
            with anyio.fail_after(PATIENCE_S):
                while process.alive() and not (directory / _PORT).exists():
                    await anyio.sleep(0.005)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await process.kill()
            raise
        if not (directory / _PORT).exists():
            raise Unavailable(f"The agent did not start: {(directory / LOG).read_text()[-300:]}")
        # If its machine is killed, it ends a moment later.
        self._begun += guest_of(process)

    def _signal(self, machine: Running, number: signal.Signals) -> None:
        if not machine.process.alive():
            raise Unavailable("Its process has ended")
        _send(number, machine.process, *guest_of(machine.process))


def guest_of(process: ProcessRef) -> Sequence[ProcessRef]:
    """Return the agent of a machine, if it runs."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    found = (ProcessRef.of(int(pid)) for pid in children) if process.alive() else ()
    return tuple(guest for guest in found if guest is not None)


@asynccontextmanager
async def host_driver(home: Path, *, within: Sequence[str] = ()) -> AsyncGenerator[HostDriver]:
    """Make a driver whose machines end with the block; see `HostDriver`."""
    driver = HostDriver(home, within=within)
    try:
        yield driver
    finally:
        with anyio.CancelScope(shield=True):
            await driver.end()


async def _end(process: ProcessRef, guest: Sequence[ProcessRef]) -> None:
    _send(signal.SIGTERM, *(guest or (process,)))
    _send(signal.SIGCONT, process, *guest)
    with anyio.move_on_after(_END_S):
        await process.ended()
    for one in (process, *guest):
        await one.kill()


def _send(number: signal.Signals, *processes: ProcessRef) -> None:
    for process in processes:
        if process.alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _is_stopped(process: ProcessRef) -> bool:
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _first_secret(initramfs: Path) -> str:
    """Return the secret that `with_secret` appended last, in hex; each start appends one, and the last one counts."""
    return re.findall(rb"casemate/secret\0+([0-9a-f]{64})", initramfs.read_bytes())[-1].decode()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
