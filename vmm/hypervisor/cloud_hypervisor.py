"""Driver for cloud-hypervisor: KVM only, with the guest link over vsock. A network device gets its tap over the API.

Memory is one zone. If it is in the machine's own file, mapped `shared`, a snapshot holds only the device state. A clone
maps a saved file copy-on-write, in the way that the version supports; a snapshot of a clone holds its memory too,
which `settle` turns into an ordinary memory file. Source: the API and the snapshots of v51.0 to v53.0, and
the mode CopyOnWrite as it was merged for v54; a snapshot can be restored only with the same version.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream

from ..errors import Unavailable
from . import ch_volumes
from .base import CONSOLE, LOG, Fill, Hardware, Memory, Ram, Running
from .cgroup import Limits
from .ch_api import CALL_S, MEMORY_S, Api, ApiError, api, started_api
from .ch_config import KERNEL, NET, VSOCK, machine_config
from .ch_snapshot import RANGES, CopyOnWrite, prepare, take
from .confinement import UNCONFINED, Confinement
from .disk_space import dig_holes, raise_if_full
from .nic import Nics
from .process import ProcessRef
from .spawn import CONTROL
from .startup import START_S, ended_on_failure, link
from .volume_disk import VolumeDisk
from .vsock import connect_vsock
from .wire import adopt_wire, release_wire, wired

_API = "api.sock"
_RESTORED, _SAVED = "restored", "saved"
_STATE, _RAM, _RANGES = "state", "ram", "ranges"
_MIB = 1024 * 1024
_OWN_MIB = 128
# Older versions ignore `resume` in a restore.
_RESUMES = 52


class CloudHypervisor:
    """cloud-hypervisor as a hypervisor.

    Args:
        binary: The program.
        version: Its version, such as `53.0`.
        cpu_model: The host processor's name, which a state depends on.
        landlock: Whether the host's kernel can restrict the program to its own files.
        confinement: Confines its processes.
        nics: Makes the taps of its machines; may be set later.
        copy_on_write: How clones share memory; None for what the version supports.
        start_s: Seconds until the program must answer.
        call_s: Time limit of a call to it in seconds.
    """

    name = "cloud-hypervisor"
    own_memory = False
    accelerator = "kvm"

    def __init__(
        self,
        binary: str,
        *,
        version: str,
        cpu_model: str,
        landlock: bool,
        confinement: Confinement = UNCONFINED,
        nics: Nics | None = None,
        copy_on_write: CopyOnWrite | None = None,
        start_s: float = START_S,
        call_s: float = CALL_S,
    ) -> None:
        self.nics = nics
        self._binary = binary
        self._start_s = start_s
        self._call_s = call_s
        self._confinement = confinement
        self.landlock = landlock
        self.version = version
        self._resumes = int(version.partition(".")[0]) >= _RESUMES
        self.copy_on_write = copy_on_write or CopyOnWrite.of(version)
        self.fingerprint = f"cloud-hypervisor {version} kvm {cpu_model}"

    async def probe(self) -> None:
        """Check that the program and the device still exist.

        Raises:
            Unavailable: One does not, or cannot be opened.
        """
        if not os.access(self._binary, os.X_OK):
            raise Unavailable(f"{self._binary} no longer exists", hint="Run casemate doctor")
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Unavailable("/dev/kvm can no longer be opened", hint="Run casemate doctor")

    async def start(self, directory: Path, hardware: Hardware, *, ram: Ram, disk: Path) -> Running:
        """Boot a machine from its kernel. Returns as soon as the hypervisor runs; the guest is still booting.

        Raises:
            ApiError: The program did not start, or refused the machine; the message holds the last line it printed.
            Conflict: Its network device cannot be made.
        """
        await anyio.to_thread.run_sync(_make_file, ram.path, hardware.mem * _MIB)
        config = machine_config(
            directory, hardware, ram=ram.path, shared=not ram.private, disk=disk, landlock=self.landlock
        )
        async with wired(self.nics, directory, hardware) as (nic, tap):
            process = await self._spawn(directory, hardware, writes=(ram.path, disk, directory / CONSOLE))
            async with self._started(directory, process) as control:
                await control.call("PUT", "vm.create", config)
                if tap is not None:
                    await control.call("PUT", "vm.add-net", NET, descriptors=(tap,))
                await control.call("PUT", "vm.boot")
        return Running(directory=directory, process=process, port=0, memory=Memory.BOOTED, nic=nic)

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
        """Start a machine from a saved device state and its memory.

        It runs when this returns; without `run` it is paused until `resume`, and nothing has changed yet. The program
        opens the disk when it loads the state, so the disk is filled while the program starts.

        Raises:
            ApiError: The program did not start, or could not load the state.
            Conflict: Its network device cannot be made.
        """
        in_zone = not ram.private or self.copy_on_write is CopyOnWrite.ZONE
        config = machine_config(
            directory,
            hardware,
            ram=ram.path if in_zone else None,
            shared=not ram.private,
            disk=disk,
            landlock=self.landlock,
        ) | ({"net": [NET]} if hardware.nic else {})
        restored = directory / _RESTORED
        reads = (restored, *((ram.path,) if ram.private and in_zone else ()))
        writes = (disk, directory / CONSOLE, *(() if ram.private else (ram.path,)))
        memory = Memory.OWN
        resumed = run and self._resumes
        try:
            await anyio.to_thread.run_sync(prepare, state, restored, config, None if in_zone else ram.path)
            async with wired(self.nics, directory, hardware) as (nic, tap):
                process = await self._spawn(directory, hardware, reads=reads, writes=writes)
                async with self._started(directory, process, fill=fill) as control:
                    by_mode = not in_zone and self.copy_on_write is CopyOnWrite.MODE
                    await self._load(control, by_mode=by_mode, run=resumed, tap=tap)
                    if run and not resumed:
                        await control.call("PUT", "vm.resume")
                    if ram.private:
                        shared = in_zone or await anyio.to_thread.run_sync(_maps, process, f"{_RESTORED}/{RANGES}")
                        memory = Memory.MAPPED if shared else Memory.COPIED
        finally:
            with anyio.CancelScope(shield=True):
                # A mapped file stays mapped after its name here is removed.
                await anyio.to_thread.run_sync(_remove, restored)
        return Running(directory=directory, process=process, port=0, memory=memory, nic=nic)

    async def save(self, machine: Running, target: Path) -> None:
        """Pause the machine and save it into an existing directory: the devices as `state`.

        Memory in the machine's own file stays there. Other memory is written in full; `settle` makes `ram` from it.

        Raises:
            HostExhausted: The host's disk is full; the machine stays paused.
            ApiError: The state could not be written; the machine stays paused.
        """
        # The program may write only in the machine's directory.
        saved = machine.directory / _SAVED
        try:
            await anyio.to_thread.run_sync(_remove, saved)
            await self._confinement.make_directory(saved)
            async with self._session(machine) as control:
                if (await control.call("GET", "vm.info"))["state"] == "Running":
                    await control.call("PUT", "vm.pause")
                destination = {"destination_url": f"file://{_SAVED}"}
                await control.call("PUT", "vm.snapshot", destination, within_s=MEMORY_S)
            await self._confinement.reclaim(saved)
            await anyio.to_thread.run_sync(take, saved, target / _STATE, target / _RANGES)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove, saved, target / _STATE, target / _RANGES)
            if isinstance(error, ApiError):
                raise_if_full(error, target)
            raise

    async def settle(self, target: Path, hardware: Hardware, *, disk: Path) -> None:
        """Make `ram` from the memory that `save` wrote, with holes where it is zero. A no-op if it wrote none."""
        if await anyio.Path(target / _RANGES).exists():
            await anyio.to_thread.run_sync(dig_holes, target / _RANGES)
            await anyio.Path(target / _RANGES).rename(target / _RAM)

    async def adopt(self, machine: Running, hardware: Hardware) -> None:
        """Apply this server's limits to a machine that an earlier server started.

        Raises:
            Conflict: This server has no tap for it, or its address is of another network.
        """
        await adopt_wire(self.nics, machine)
        await self._confinement.adopt(machine.process, machine.directory, _limits(hardware))

    async def stop(self, machine: Running) -> None:
        """End the machine at once, without asking the guest, and free its resources on the host. May be repeated."""
        await machine.process.kill()
        await anyio.to_thread.run_sync(_remove, machine.directory / _API, machine.directory / VSOCK)
        await self._confinement.release(machine.directory)
        await release_wire(self.nics, machine.directory)

    async def why_killed(self, machine: Running) -> str:
        """Explain to the owner why the host killed the machine; empty if it did not. Call it before `stop`."""
        return await self._confinement.why_killed(machine.directory)

    async def problem(self, machine: Running) -> str:
        """Explain to a user why a machine that has not ended is paused; empty if it runs."""
        try:
            async with self._session(machine) as control:
                state = (await control.call("GET", "vm.info"))["state"]
        except ApiError as error:
            return error.message
        return "" if state == "Running" else f"the machine is in the state {state}"

    async def resume(self, machine: Running) -> None:
        """Resume a paused or saved machine; a no-op if it runs.

        Raises:
            ApiError: It cannot, or has ended.
        """
        async with self._session(machine) as control:
            # The program handles one call at a time: first it finishes a save that a killed server began.
            if (await control.call("GET", "vm.info", within_s=MEMORY_S))["state"] != "Running":
                await control.call("PUT", "vm.resume")
        await anyio.to_thread.run_sync(_remove, machine.directory / _SAVED)

    async def plug(self, machine: Running, disk: VolumeDisk) -> None:
        """Add a volume's disk to a machine; the guest notices it a moment later.

        Raises:
            ApiError: The program refused it, or has ended.
            Unavailable: The machine's directory is on another file system than the volume.
        """
        async with self._session(machine) as control:
            await ch_volumes.plug(control, machine.directory, machine.process, disk, self._confinement)

    async def unplug(self, machine: Running, serial: str) -> None:
        """Remove a volume's disk, and wait until its file is closed. A guest that hangs prevents it. May be repeated.

        Raises:
            ApiError: The guest does not let go of it, or the program has ended.
        """
        async with self._session(machine) as control:
            await ch_volumes.unplug(control, machine.process, serial)

    async def plugged(self, machine: Running) -> frozenset[str]:
        """Return the serial numbers of the volumes' disks that a machine has.

        Raises:
            ApiError: The program has ended.
        """
        async with self._session(machine) as control:
            return await ch_volumes.plugged(control)

    async def dial(self, machine: Running) -> ByteStream:
        """Connect to the agent over vsock.

        Raises:
            LinkError: Nobody listens there: the hypervisor has ended, or the agent is not up yet.
        """
        return await connect_vsock(machine.directory / VSOCK)

    async def _spawn(
        self, directory: Path, hardware: Hardware, *, reads: tuple[Path, ...] = (), writes: tuple[Path, ...]
    ) -> ProcessRef:
        # A socket that an earlier process left prevents the program from starting.
        for name in (VSOCK, KERNEL):
            (directory / name).unlink(missing_ok=True)
        await anyio.to_thread.run_sync(link, hardware.kernel_bz, directory / KERNEL)
        parts = (hardware.kernel_bz, hardware.initramfs, hardware.toolbox, hardware.base)
        return await self._confinement.spawn(
            [self._binary, "--api-socket", f"fd={CONTROL}"],
            directory=directory,
            log=directory / LOG,
            limits=_limits(hardware),
            control=directory / _API,
            reads=(*parts, *reads),
            writes=writes,
        )

    @asynccontextmanager
    async def _started(self, directory: Path, process: ProcessRef, *, fill: Fill | None = None) -> AsyncGenerator[Api]:
        session = started_api(directory / _API, self.version, start_s=self._start_s, call_s=self._call_s)
        try:
            async with ended_on_failure(process, directory, self._confinement):
                if fill is not None:
                    await fill()
                async with session as control:
                    yield control
        finally:
            (directory / KERNEL).unlink(missing_ok=True)

    def _session(self, machine: Running) -> AbstractAsyncContextManager[Api]:
        return api(machine.directory / _API, call_s=self._call_s)

    async def _load(self, control: Api, *, by_mode: bool, run: bool, tap: int | None) -> None:
        source: dict[str, Any] = {"source_url": f"file://{_RESTORED}", "resume": run}
        descriptors = () if tap is None else (tap,)
        if descriptors:
            source["net_fds"] = [{"id": NET["id"], "num_fds": len(descriptors)}]
        if by_mode:
            try:
                mode = {"memory_restore_mode": "CopyOnWrite"}
                await control.call("PUT", "vm.restore", source | mode, descriptors=descriptors)
            except ApiError as refused:
                if not _is_unknown(refused):
                    raise
            else:
                return
        await control.call("PUT", "vm.restore", source, within_s=MEMORY_S, descriptors=descriptors)


def _limits(hardware: Hardware) -> Limits:
    return Limits.of(mem_mib=hardware.mem, own_mib=_OWN_MIB, cpus=hardware.cpu)


def _is_unknown(refused: ApiError) -> bool:
    """Tell whether the program does not know the requested mode, so that nothing has happened yet."""
    return "CopyOnWrite" in refused.message


def _maps(process: ProcessRef, name: str) -> bool:
    """Tell whether a process has mapped a file, instead of copying its content."""
    return any(line.endswith(name) for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines())


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _make_file(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
