"""The composition root: the only place where the parts are made and wired together.

Settings, store, accounts and keys, hypervisor, images, fleet, web application: each gets what it needs in its
constructor, and all end in the reverse order.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from auth.accounts import Accounts
from auth.bootstrap import ensure_local_access
from auth.keys import KeyStore
from auth.middleware import ApiKeyAuth
from storage.sqlite import SqliteDatabase
from vmm.fleet import Fleet
from vmm.host import host_id
from vmm.hypervisor.detect import choose
from vmm.images.catalogue import Catalogue
from vmm.limits import HostReserve, OwnerLimits
from vmm.quotas import QUOTAS, Quotas
from vmm.records import SANDBOXES, Records

from .audit.record import AUDIT
from .audit.trail import Trail
from .metrics.meters import Meters
from .occupancy import Occupancy, occupy
from .web import build_web

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.applications import Starlette

    from .settings import Settings

_STORE = "casemate.db"
_IMAGES = "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What works together on a data directory.

    Attributes:
        fleet: The sandboxes.
        keys: Who may call.
        owner: The organisation of the local key.
        hypervisor: Which driver was chosen, and why.
        occupancy: The lock on the directory.
        trail: Takes note of every call; it writes only while it runs.
        meters: Count what happens.
    """

    settings: Settings
    fleet: Fleet
    keys: KeyStore
    owner: str
    hypervisor: str
    occupancy: Occupancy
    trail: Trail
    meters: Meters

    def web(self) -> Starlette:
        """The web application over these parts."""
        return build_web(self.settings, self.fleet, lambda app: ApiKeyAuth(app, self.keys), self.trail, self.meters)


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncGenerator[Parts]:
    """The parts for the length of a block. Machines that run are taken over, and live on at its end.

    Raises:
        Occupied: Another process works on the data directory.
        Unavailable: The host has no hypervisor.
        StoreError: The store cannot be opened.
        AuthError: The local key cannot be read or written.
    """
    with occupy(settings.data) as occupancy:
        choice = await choose()
        async with SqliteDatabase(settings.data / _STORE) as database:
            keys = await KeyStore.open(database)
            local = await ensure_local_access(await Accounts.open(database), keys, settings.key_file)
            meters = Meters(version=version("casemate"))
            trail = Trail(await database.collection(AUDIT), meters=meters, days=settings.audit_days)
            records = Records(await database.collection(SANDBOXES), host=host_id(settings.data))
            limits = OwnerLimits(sandboxes=settings.max_sandboxes, cpus=settings.max_vcpus, mem=settings.max_memory_mib)
            async with Fleet.open(
                data=settings.data,
                driver=choice.driver,
                catalogue=open_catalogue(settings),
                records=records,
                quotas=Quotas(limits, await database.collection(QUOTAS)),
                reserve=HostReserve(),
            ) as fleet:
                yield Parts(
                    settings=settings,
                    fleet=fleet,
                    keys=keys,
                    owner=local.principal.org_id,
                    hypervisor=choice.reason,
                    occupancy=occupancy,
                    trail=trail,
                    meters=meters,
                )


def open_catalogue(settings: Settings) -> Catalogue:
    """The images of a data directory."""
    return Catalogue(settings.data / _IMAGES)
