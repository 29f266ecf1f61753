"""The fleet: the only public entry to sandboxes.

What owners may do is in groups: `fleet.sandboxes`, `fleet.lifecycle`, `fleet.snapshots`, `fleet.volumes`,
`fleet.guest`, `fleet.watches`, `fleet.network` and `fleet.ports`. Every call in them takes the owner first, whom only
`Ownership` checks.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import anyio
from anyio import AsyncContextManagerMixin

from storage.errors import StoreError

from .calls.guest import GuestCalls
from .calls.lifecycle import LifecycleCalls
from .calls.network import NetworkCalls
from .calls.ownership import Ownership
from .calls.ports import PortCalls
from .calls.sandboxes import SandboxCalls
from .calls.sessions import SessionCalls
from .calls.snapshots import SnapshotCalls
from .calls.volumes import VolumeCalls
from .calls.watches import WatchCalls
from .errors import CasemateError
from .hypervisor.base import Hypervisor
from .images.catalogue import Catalogue, ImageInfo, ImageSet
from .lifecycle.access import GuestAccess
from .lifecycle.activity import Activity
from .lifecycle.admission import Admission
from .lifecycle.attachments import Attachments
from .lifecycle.create import Creator
from .lifecycle.creations import Creations
from .lifecycle.deaths import Deaths
from .lifecycle.delete import Deleter
from .lifecycle.housekeeping import Housekeeping
from .lifecycle.lapse import Lapse
from .lifecycle.plan import Planner
from .lifecycle.reaper import Reaper
from .lifecycle.recovery import Recovery
from .lifecycle.restart import Restarter
from .lifecycle.restore import Restorer
from .lifecycle.sleep import Sleeper
from .lifecycle.snapshot import Snapshotter
from .lifecycle.transitions import Transitions
from .lifecycle.volume_keeper import VolumeKeeper
from .machines.certificates import NO_CERTIFICATES, Certificates
from .machines.clone import Cloner, end, no_progress
from .machines.machine import Machine
from .machines.registry import MachineRegistry
from .machines.snapshots import Snapshots
from .machines.templates import Report, Templates
from .machines.warm_pool import Key, WarmPool
from .network.gateway import Gateway
from .network.policy import Mode, Policy
from .network.rules import HostRules
from .sandboxes.limits import HostReserve
from .sandboxes.quotas import Quotas
from .sandboxes.spec import SandboxSpec
from .sandboxes.store import SandboxStore
from .volumes.files import VolumeFiles
from .volumes.store import VolumeStore

_SWEEP_S = 5.0
_MAX_AGE_S = 3600.0


def _ignore(_what: str) -> None:
    pass


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Fleet(AsyncContextManagerMixin):
    """All sandboxes of a host, for the length of a block: adopts running machines, cleans up the rest, watches them.

    When the block ends, the machines keep running.

    Attributes:
        sandboxes: Create, find, list, change and delete them.
        lifecycle: Put them to sleep, wake and restart them.
        snapshots: Take and restore snapshots, and fork.
        volumes: Make and delete volumes, attach them and detach them.
        guest: Commands, processes, files and terminals inside.
        sessions: Shells inside that keep their state between commands.
        watches: What happens to files inside.
        network: Where they may connect to, and where they did.
        ports: Which ports may be opened from outside.

    Args:
        data: The data directory; `instances`, `templates`, `snapshots` and `volumes` below it belong to the fleet.
        driver: The hypervisor.
        catalogue: The images.
        store: The records of the sandboxes.
        volumes: The records of the volumes.
        quotas: What each owner may have.
        reserve: What must stay free on the host.
        instances: The directory of the machines' directories, if not below the data directory.
        own_memory: Whether each machine has a memory file of its own from the start, rather than from its first sleep;
            None lets the driver decide.
        ready: How many machines wait for new sandboxes of the image and size that `prepare` names.
        retention_s: Seconds after which a sandbox that sleeps is deleted; 0 is never.
        sweep_s: How often timers are checked.
        gateway: The way of all sandboxes to the network; if none is given, one that opens the internet.
        certificates: Authorities that new sandboxes trust besides Debian's.
        clock: Milliseconds since the epoch.
        on_sandbox: Called with the id of each sandbox that a call is about, once it is known.
        on_start: Called with how each machine got its memory (`Memory`).
    """

    def __init__(
        self,
        *,
        data: Path,
        driver: Hypervisor,
        catalogue: Catalogue,
        store: SandboxStore,
        volumes: VolumeStore,
        quotas: Quotas,
        reserve: HostReserve,
        instances: Path | None = None,
        own_memory: bool | None = None,
        ready: int = 0,
        retention_s: int = 0,
        sweep_s: float = _SWEEP_S,
        gateway: Gateway | None = None,
        certificates: Certificates = NO_CERTIFICATES,
        clock: Callable[[], int] = _now_ms,
        on_sandbox: Callable[[str], None] = _ignore,
        on_start: Callable[[str], None] = _ignore,
    ) -> None:
        self._driver = driver
        self._catalogue = catalogue
        self._store = store
        self._tasks = tasks = anyio.create_task_group()
        self._templates = templates = Templates(driver, data / "templates", tasks, catalogue.verify, certificates)
        snapshots = Snapshots(data / "snapshots")
        activity = Activity(clock)
        self._gateway = gateway = gateway or Gateway(default=Policy(mode=Mode.INTERNET), host=HostRules, clock=clock)
        instances = instances or data / "instances"

        async def connect(sandbox_id: str, machine: Machine, in_force: Callable[[], None]) -> None:
            async def network() -> str:
                sandbox = await store.find(sandbox_id)
                return Mode.NONE.value if sandbox is None else sandbox.network

            await machine.readdress()
            await gateway.serve(sandbox_id, network, machine.link, machine.running.nic, in_force)

        async def watch(sandbox_id: str, machine: Machine, _in_force: Callable[[], None]) -> None:
            await self.watches.serve(sandbox_id, machine)

        beside = {"network not served": connect, "files not watched": watch}
        self._machines = machines = MachineRegistry(driver, instances, tasks, self._died, beside)
        cloner = Cloner(driver, machines, templates, own_memory=driver.own_memory if own_memory is None else own_memory)

        def admit_ahead(key: Key) -> None:
            admission.check_ahead(key.mem)

        pool = WarmPool(
            cloner.ahead,
            end,
            admit_ahead,
            size=ready,
            max_age_s=_MAX_AGE_S,
            clock=time.monotonic,
            tasks=tasks,
        )
        admission = Admission((instances, data), store, quotas, reserve, ahead=pool.promised, give_way=pool.give_way)
        files = VolumeFiles(data / "volumes")
        attachments = Attachments(volumes, files, store)
        keeper = VolumeKeeper(
            store=volumes, files=files, sandboxes=store, attachments=attachments, admission=admission, clock=clock
        )
        transitions = Transitions(
            store=store,
            machines=machines,
            admission=admission,
            activity=activity,
            attachments=attachments,
            clock=clock,
            on_start=on_start,
        )
        self._deaths = deaths = Deaths(store=store, machines=machines, admission=admission, clock=clock)
        sleeper = Sleeper(
            driver=driver,
            transitions=transitions,
            store=store,
            machines=machines,
            admission=admission,
            activity=activity,
            deaths=deaths,
            attachments=attachments,
            tasks=tasks,
        )
        restorer = Restorer(
            driver=driver,
            transitions=transitions,
            store=store,
            machines=machines,
            cloner=cloner,
            snapshots=snapshots,
            admission=admission,
            attachments=attachments,
            on_start=on_start,
        )
        restarter = Restarter(
            driver=driver,
            transitions=transitions,
            store=store,
            machines=machines,
            admission=admission,
            sleeper=sleeper,
            restorer=restorer,
            tasks=tasks,
        )
        creations = Creations()
        planner = Planner(
            catalogue=catalogue,
            snapshots=snapshots,
            restorer=restorer,
            cloner=cloner,
            pool=pool,
            volumes=volumes,
            attachments=attachments,
            clock=clock,
        )
        creator = Creator(
            planner=planner,
            store=store,
            machines=machines,
            admission=admission,
            attachments=attachments,
            keeper=keeper,
            tasks=tasks,
            creations=creations,
            clock=clock,
            on_sandbox=on_sandbox,
            on_start=on_start,
            on_undone=gateway.forget,
        )
        snapshotter = Snapshotter(
            snapshots=snapshots,
            store=store,
            machines=machines,
            transitions=transitions,
            admission=admission,
            attachments=attachments,
            clock=clock,
        )
        deleter = Deleter(
            store=store,
            machines=machines,
            transitions=transitions,
            admission=admission,
            activity=activity,
            attachments=attachments,
            gateway=gateway,
            on_deleted=self._deleted,
            clock=clock,
        )
        access = GuestAccess(
            store=store,
            machines=machines,
            transitions=transitions,
            sleeper=sleeper,
            activity=activity,
            creations=creations,
        )
        self._housekeeping = Housekeeping(
            catalogue=catalogue,
            recovery=Recovery(
                store=store, machines=machines, transitions=transitions, deaths=deaths, attachments=attachments
            ),
            keeper=keeper,
            machines=machines,
            templates=templates,
            snapshots=snapshots,
            sleeper=sleeper,
            deaths=deaths,
            deleter=deleter,
            pool=pool,
            reaper=Reaper(
                store,
                activity,
                sleep=sleeper.sleep_if_unused,
                delete=deleter.delete_seen,
                guest_idle=access.is_idle,
                retention_s=retention_s,
                now_ms=clock,
            ),
            sweep_s=sweep_s,
        )
        ownership = Ownership(
            store, creations=creations, why_unresponsive=machines.why_unresponsive, on_sandbox=on_sandbox
        )
        self.sandboxes = SandboxCalls(
            ownership=ownership,
            store=store,
            creator=creator,
            deleter=deleter,
            lapse=Lapse(store=store, activity=activity, deleter=deleter, clock=clock),
            gateway=gateway,
            clock=clock,
        )
        self.lifecycle = LifecycleCalls(ownership=ownership, sleeper=sleeper, restarter=restarter, machines=machines)
        self.snapshots = SnapshotCalls(
            ownership=ownership,
            transitions=transitions,
            snapshots=snapshots,
            snapshotter=snapshotter,
            restorer=restorer,
            creator=creator,
            volumes=volumes,
            files=files,
        )
        self.volumes = VolumeCalls(
            ownership=ownership,
            store=volumes,
            files=files,
            keeper=keeper,
            attachments=attachments,
            access=access,
            transitions=transitions,
            machines=machines,
        )
        self.network = NetworkCalls(ownership=ownership, gateway=gateway)
        self.guest = GuestCalls(ownership, access, self.network)
        self.sessions = SessionCalls(self.guest, self.network)
        self.watches = WatchCalls(ownership=ownership, access=access, tasks=tasks)
        self.ports = PortCalls(ownership=ownership, store=store, clock=clock)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._tasks:
            await self._housekeeping.begin(self._tasks)
            try:
                yield self
            finally:
                self._tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._housekeeping.end()

    def __len__(self) -> int:
        """Count the machines that run."""
        return len(self._machines)

    def images(self) -> tuple[str, ...]:
        """Return the names of the images that a sandbox can be created from."""
        return self._catalogue.names()

    async def image_list(self) -> tuple[ImageInfo, ...]:
        """List the images that a sandbox can be created from, built or not, the default first."""
        return await self._catalogue.list()

    async def prepare(self, image: str, *, cpu: int, mem: int, report: Report | None = None) -> None:
        """Make sure that sandboxes of this image and size start by cloning, and keep some machines of it ready.

        Raises:
            Unavailable: The image is not built, or its template cannot be built.
        """
        images = await self.build_template(image, cpu=cpu, mem=mem, report=report)
        self._housekeeping.keep_ready(Key(images=images, cpu=cpu, mem=mem))

    async def build_template(self, image: str, *, cpu: int, mem: int, report: Report | None = None) -> ImageSet:
        """Make sure that sandboxes of this image and size start by cloning; a no-op if its template exists.

        The build goes on if the caller gives up.

        Raises:
            InvalidInput: There is no such image, or the size is not allowed.
            Unavailable: The image is not built, or its template cannot be built.
        """
        SandboxSpec(name="template", image=image, cpu=cpu, mem=mem).check(self._catalogue.names())
        images = await self._catalogue.require(image)
        await self._templates.get(images, cpu=cpu, mem=mem, report=report or no_progress)
        return images

    async def health(self, image: str) -> dict[str, str]:
        """Check the parts that creating a sandbox of an image needs: each with its problem, or an empty text."""
        return {
            "store": await _problem(self._store.ping),
            "hypervisor": await _problem(self._driver.probe),
            "image": await _problem(lambda: self._catalogue.require(image)),
        }

    def _deleted(self, sandbox_id: str) -> None:
        self.watches.forget(sandbox_id)

    async def _died(self, sandbox_id: str, machine: str, reason: str) -> None:
        self.watches.died(sandbox_id)
        await self._deaths.died(sandbox_id, machine, reason)


async def _problem(probe: Callable[[], Awaitable[object]]) -> str:
    try:
        await probe()
    except (CasemateError, StoreError) as error:
        return str(error)
    return ""
