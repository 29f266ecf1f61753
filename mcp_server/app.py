"""The composition root: the only place that creates the services and wires them together.

Settings, store, identity, hypervisor, images, fleet, web application: each gets its dependencies in its constructor,
and they close in reverse order.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import structlog

from auth.invitations import INVITATIONS
from auth.keys import KEYS
from auth.organisations import MEMBERS, ORGANISATIONS
from auth.users import USERS
from storage.errors import StoreUnavailable
from storage.mongo import MongoDatabase
from storage.sqlite import SqliteDatabase
from vmm.fleet import Fleet
from vmm.hypervisor.confinement import Confinement
from vmm.hypervisor.detect import choose, kvm
from vmm.images.catalogue import Catalogue
from vmm.machines.certificates import host_certificates
from vmm.machines.host_id import host_id
from vmm.sandboxes.limits import HostReserve, OwnerLimits
from vmm.sandboxes.quotas import QUOTAS, Quotas
from vmm.sandboxes.store import SANDBOXES, SandboxStore
from vmm.volumes.store import VOLUMES, VolumeStore

from .audit.entry import annotate_call
from .audit.log import AuditLog
from .audit.reader import AuditReader
from .audit.record import AUDIT
from .data_dir_lock import DataDirLock, lock_data_dir, lock_instances
from .defaults import Defaults
from .guest_network import open_guest_network
from .identity import Identity
from .image_names import image_named
from .observability.metrics import Meters
from .observability.tracing import Tracing
from .ports.dial import dial_guest
from .ports.names import PortNames
from .ports.published import PublishedPorts
from .ports.tokens import port_secret
from .rest.api import Api
from .rest.audit import audit_endpoints
from .rest.endpoint import routes
from .rest.quotas import QuotaRoutes
from .rest.routes import SandboxApi
from .rest.sockets import socket_routes
from .rest.templates import TemplateRoutes
from .sandbox_api.detail import Detailed
from .sandbox_api.rules import IN_GUEST, Home, Rules
from .sandbox_api.surface import ENDPOINT, SessionApi
from .scrape import metrics_route
from .web import build_web, gated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.applications import Starlette
    from starlette.routing import BaseRoute

    from storage.collection import Database

    from .ports.dial import Dial
    from .rest.endpoint import Endpoint
    from .settings import Settings

COLLECTIONS = (USERS, ORGANISATIONS, MEMBERS, KEYS, INVITATIONS, SANDBOXES, VOLUMES, QUOTAS, AUDIT)
"""The collections worth copying to another store; rate limit counters are worthless after a minute."""

_STORE = "casemate.db"
_RETRY_S = 1.0
_DAY_S = 86_400
_TELL_S = 10.0
_log = structlog.stdlib.get_logger("casemate.app")


@dataclass(frozen=True, kw_only=True)
class Services:
    """The services that work together on a data directory.

    Attributes:
        database: The store.
        identity: Accounts, keys and the gate that checks credentials.
        fleet: The sandboxes.
        quotas: Limits of each organisation.
        hypervisor: The chosen driver and the reason for the choice.
        network: How sandboxes reach the network.
        lock: The lock on the data directory.
        audit_log: Records every call.
        audit_reader: Looks up recorded calls.
        meters: The Prometheus metrics.
        tracing: Exports spans.
        dial: The way to ports of sandboxes; None for the guest link.
        home: Where the files of sandbox-api's sessions are inside.
    """

    settings: Settings
    database: Database
    identity: Identity
    fleet: Fleet
    quotas: Quotas
    hypervisor: str
    network: str
    lock: DataDirLock
    audit_log: AuditLog
    audit_reader: AuditReader
    meters: Meters
    tracing: Tracing
    dial: Dial | None = None
    home: Home = IN_GUEST

    async def run(self) -> None:
        """Run the background tasks of the services; start them before the web application and end them after it."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.identity.run)
            tasks.start_soon(self.audit_log.run)
            if self.session_api is not None:
                tasks.start_soon(self.session_api.sessions.run, self.settings.sandbox_api_cleanup_seconds)

    @cached_property
    def session_api(self) -> SessionApi | None:
        """Sandbox-api's surface; None if it is off."""
        if not self.settings.sandbox_api:
            return None
        return SessionApi(self.fleet, Rules.of(self.settings, self.defaults.image), self.home)

    def web(self) -> Starlette:
        """Build the web application over these services.

        Raises:
            KeyFileError: The secret for signed URLs cannot be read or written.
        """
        ports = self.ports()
        return build_web(
            self.settings,
            self.fleet,
            gate=self.identity.gate,
            recognise=self.identity.recognises,
            defaults=self.defaults,
            ports=ports,
            audit_log=self.audit_log,
            meters=self.meters,
            others=None if self.session_api is None else {ENDPOINT: self.session_api.server(self.audit_log)},
            routes=self._routes(ports),
            layers=self.tracing.layers(),
        )

    @property
    def defaults(self) -> Defaults:
        """Image and size of a sandbox whose creator names none."""
        chosen = self.settings
        return Defaults(
            image=image_named(chosen.default_image, self.fleet.images()),
            cpu=chosen.default_cpu,
            mem=chosen.default_mem,
            idle_s=chosen.idle_seconds,
            create_wait_s=chosen.create_wait_seconds,
        )

    def api(self, ports: PublishedPorts) -> Api:
        """Build the REST API over these services."""
        quotas = QuotaRoutes(self.quotas, self.fleet, self.identity.accounts.organisations)
        sandboxes = SandboxApi(self.fleet, self.defaults, ports)
        closed = [
            *self.identity.endpoints(),
            *quotas.endpoints(),
            *TemplateRoutes(self.fleet, self.defaults).endpoints(),
            *audit_endpoints(self.audit_reader, self.fleet.sandboxes.get),
            *sandboxes.endpoints,
            *self._session_endpoints(),
        ]
        return Api(closed, self.identity.open_endpoints(), sandboxes.sockets, version=version("casemate"))

    def ports(self) -> PublishedPorts:
        """Build what publishes ports of the sandboxes.

        Raises:
            KeyFileError: The secret for signed URLs cannot be read or written.
        """
        return PublishedPorts(
            self.fleet,
            names=PortNames(self.settings.ports_domain, port=self.settings.port),
            dial=self.dial or dial_guest(self.fleet),
            secret=port_secret(self.settings.data),
        )

    def _session_endpoints(self) -> list[Endpoint]:
        return [] if self.session_api is None else self.session_api.endpoints

    def _routes(self, ports: PublishedPorts) -> list[BaseRoute]:
        api = self.api(ports)
        found: list[BaseRoute] = [*routes(api.open)]
        behind = routes(api.closed, sockets=[one.path for one in api.sockets])
        found += gated(self.identity.gate, [*socket_routes(api.sockets), *behind])
        compatible = {one.path for one in self._session_endpoints()}
        for route in behind:
            if route.path in compatible:
                route.app = Detailed(route.app)
        if self.settings.metrics:
            token = self.settings.metrics_token
            found.append(
                metrics_route(
                    self.meters,
                    survey=self.fleet.sandboxes.survey,
                    ping=self.database.ping,
                    connections=self.fleet.network.counts,
                    token=token.get_secret_value() if token else "",
                )
            )
        return found


@asynccontextmanager
async def open_services(settings: Settings, *, patience_s: float = 0) -> AsyncGenerator[Services]:
    """Open the services for the duration of a block. Running machines are adopted, and keep running after the block.

    Args:
        settings: The operator's settings.
        patience_s: Seconds to wait for a store that does not answer.

    Raises:
        DataDirInUse: Another process uses the data directory, or the directory of the machines.
        Unavailable: The host has no hypervisor, or not the network that the settings ask for.
        Conflict: Something of the host is in the way of that network.
        StoreUnavailable: The store did not answer in time.
        StoreError: The store cannot be opened.
        AuthError: The local key cannot be read or written.
        TracingRefused: Tracing is configured but cannot work.
    """
    with lock_data_dir(settings.data) as lock, lock_instances(settings.instances):
        confinement = await Confinement.open(kvm=kvm().usable)
        tracing = Tracing.of_environment(version=version("casemate"))
        try:
            async with (
                _opened(open_database(settings), patience_s) as database,
                open_guest_network(settings) as network,
            ):
                choice = await choose(confinement, network.taps)
                meters = Meters(version=version("casemate"))
                records = SandboxStore(await database.collection(SANDBOXES), host=host_id(settings.data))
                volumes = VolumeStore(await database.collection(VOLUMES), host=host_id(settings.data))
                audit = await database.collection(AUDIT)
                quotas = Quotas(_limits(settings), await database.collection(QUOTAS))
                identity = await Identity.open(settings, database, shared=settings.mongo_uri is not None)
                async with Fleet(
                    data=settings.data,
                    driver=choice.driver,
                    catalogue=open_catalogue(settings),
                    store=records,
                    volumes=volumes,
                    quotas=quotas,
                    reserve=HostReserve(),
                    instances=settings.instances,
                    ready=settings.warm_pool,
                    retention_s=settings.sleep_retention_days * _DAY_S,
                    gateway=network.gateway,
                    certificates=await anyio.to_thread.run_sync(host_certificates, settings.guest_ca_file),
                    on_sandbox=lambda sandbox_id: annotate_call(sandbox=sandbox_id),
                    on_start=meters.started,
                ) as fleet:
                    await confinement.sweep()
                    yield Services(
                        settings=settings,
                        database=database,
                        identity=identity,
                        fleet=fleet,
                        quotas=quotas,
                        hypervisor=choice.reason,
                        network=network.way,
                        lock=lock,
                        audit_log=AuditLog(audit, meters=meters, days=settings.audit_days),
                        audit_reader=AuditReader(audit),
                        meters=meters,
                        tracing=tracing,
                    )
        finally:
            await tracing.aclose()


def open_database(settings: Settings) -> Database:
    """Create the store that the settings name, without opening it.

    Raises:
        StoreError: The address or the database name of the MongoDB is invalid.
    """
    return sqlite_database(settings) if settings.mongo_uri is None else mongo_database(settings)


def sqlite_database(settings: Settings) -> Database:
    """Create the embedded store of the data directory, without opening it."""
    return SqliteDatabase(settings.data / _STORE)


def mongo_database(settings: Settings) -> Database:
    """Create the MongoDB store of the settings, without opening it.

    Raises:
        StoreError: No MongoDB is configured, or its address or database name is invalid.
    """
    uri = settings.mongo_uri
    return MongoDatabase(uri.get_secret_value() if uri else "", settings.mongo_db)


def open_catalogue(settings: Settings) -> Catalogue:
    """Open the image catalogue of a data directory."""
    return Catalogue(settings.images)


@asynccontextmanager
async def _opened(database: Database, patience_s: float) -> AsyncGenerator[Database]:
    """Open a store for the duration of a block, and wait for one that does not answer yet."""
    until = anyio.current_time() + patience_s
    told = -_TELL_S
    while True:
        try:
            await database.open()
            break
        except StoreUnavailable as error:
            now = anyio.current_time()
            if now >= until:
                raise
            if now - told >= _TELL_S:
                _log.warning("waiting for the store", reason=error.message, at_most_s=round(until - now))
                told = now
        await anyio.sleep(_RETRY_S)
    try:
        yield database
    finally:
        await database.aclose()


def _limits(settings: Settings) -> OwnerLimits:
    return OwnerLimits(
        sandboxes=settings.max_sandboxes,
        cpus=settings.max_vcpus,
        mem=settings.max_memory_mib,
        disk=settings.max_disk_mib,
        snapshots=settings.max_snapshots,
        volumes=settings.max_volumes,
        volume_disk=settings.max_volume_disk_mib,
    )
