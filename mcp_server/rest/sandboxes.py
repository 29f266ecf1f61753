"""Sandboxes over REST: create, list, get, change, delete, and their resource usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.image_names import image_named
from mcp_server.shapes import SandboxObject
from mcp_server.wire import event_object, parse_network, parse_selector, sandbox_object
from vmm.errors import InvalidInput
from vmm.sandboxes.published import check_listed, new_entries
from vmm.sandboxes.spec import CPU_RANGE, MEM_RANGE, NAME, NAME_LENGTH, SandboxSpec
from vmm.sandboxes.volume_mount import VolumeMount

from .body import WireModel, parse_body, parse_query
from .contract import GUEST, contract
from .endpoint import Endpoint
from .envelope import success
from .paging import Page
from .shapes.envelope import Done, Enveloped, Paged
from .shapes.sandboxes import UsageObject

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from mcp_server.defaults import Defaults
    from vmm.fleet import Fleet

_EVENTS = 10
_SLEEP_BEFORE, _WAKE_BEFORE = ("stop", "pause", "snapshot"), ("resume",)
"""What earlier VoidRun servers called sleep and wake; `restore` without a snapshot is in `snapshots.py`."""

Amount = Annotated[int, Field(gt=-(2**31), lt=2**31)]
"""An integer that fits the fleet's types; the fleet checks its range."""

Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME.pattern}$", "maxLength": NAME_LENGTH})]
Cpu = Annotated[Amount, Field(json_schema_extra={"minimum": CPU_RANGE[0], "maximum": CPU_RANGE[1]})]
Mem = Annotated[Amount, Field(json_schema_extra={"minimum": MEM_RANGE[0], "maximum": MEM_RANGE[1]})]
"""Values that the fleet checks, too; here only the API's description has their limits."""


class SandboxPage(Page):
    """A page of the sandboxes, or of those with all the labels of a selector such as `key=value,key2=value2`."""

    labels: str = ""


class WirePort(WireModel):
    """A port to publish, as VoidRun's newest client writes it."""

    protocol: Literal["http", "tcp"] = "http"
    port: Amount


class WireVolume(WireModel):
    """A volume that the sandbox has from the start: its name or id, and the directory where programs see it."""

    name: str
    path: str
    read_only: bool = False


class CreateRequest(WireModel):
    """A sandbox to create; `ttl` and `idle` are in seconds; a `snapshot` determines image, cpu and mem.

    `network` is a policy, as one text or as a list. `publishPorts` and `ports` mean the same. `orgId` and `userId` are
    ignored in favour of the credential's. With `sync` the answer waits until the sandbox runs, for a limited time;
    without it, or after that time, it is shown as snapshotted until it runs, and calls wait for it. `region` is only
    kept and shown, because there is only one host.
    """

    name: Name
    image: str = ""
    cpu: Cpu | None = None
    mem: Mem | None = None
    org_id: str = ""
    user_id: str = ""
    sync: bool = True
    env_vars: dict[str, str] = Field(default_factory=dict[str, str])
    auto_sleep: bool = True
    ttl: Amount = 0
    idle: Amount | None = None
    snapshot: str = ""
    network: str | list[str] = ""
    region: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    publish_ports: list[Amount] = Field(default_factory=list[int])
    ports: list[WirePort] = Field(default_factory=list[WirePort])
    volumes: list[WireVolume] = Field(default_factory=list[WireVolume])

    def spec(self, who: Principal, defaults: Defaults, images: Collection[str]) -> SandboxSpec:
        """Convert the request to the fleet's specification.

        Raises:
            InvalidInput: A list of ports is too long, or has a port twice or that does not exist.
        """
        check_listed(self.publish_ports, name="publishPorts")
        check_listed([one.port for one in self.ports], name="ports")
        protocols: dict[int, Literal["http", "tcp"]] = dict.fromkeys(self.publish_ports, "http")
        protocols |= {one.port: one.protocol for one in self.ports}
        check_listed(list(protocols), name="publishPorts and ports together")
        return SandboxSpec(
            name=self.name.strip(),
            image=image_named(self.image, images) or defaults.image,
            cpu=defaults.cpu if self.cpu is None else self.cpu,
            mem=defaults.mem if self.mem is None else self.mem,
            labels=self.labels,
            env=self.env_vars,
            auto_sleep=self.auto_sleep,
            ttl_s=self.ttl,
            idle_s=defaults.idle_s if self.idle is None else self.idle,
            snapshot=self.snapshot.strip(),
            network=parse_network(self.network),
            region=self.region,
            published=new_entries(protocols),
            volumes=[
                VolumeMount(volume=one.name.strip(), path=one.path, read_only=one.read_only) for one in self.volumes
            ],
            created_by=who.user_id,
        )


class UpdateRequest(WireModel):
    """What to change. `ttl` is in seconds from now, `idle` in seconds without use; 0 is no limit.

    An empty `network` is the operator's policy.
    """

    model_config = ConfigDict(extra="forbid")

    auto_sleep: bool | None = None
    name: str | None = None
    labels: dict[str, str] | None = None
    ttl: Amount | None = None
    idle: Amount | None = None
    network: str | list[str] | None = None


class RestartRequest(WireModel):
    """Whether to restart from the disk, or from the newest snapshot."""

    from_snapshot: bool = False


class SandboxRoutes:
    """The routes for sandboxes themselves."""

    def __init__(self, fleet: Fleet, defaults: Defaults) -> None:
        self._fleet = fleet
        self._defaults = defaults

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        all_, one = "/api/sandboxes", "/api/sandboxes/{id}"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="GET", path=all_, handler=self.list, scope=read, action="sandbox.list"),
            Endpoint(method="POST", path=all_, handler=self.create, scope=run, action="sandbox.create"),
            Endpoint(method="GET", path=one, handler=self.get, scope=read, action="sandbox.get"),
            Endpoint(method="PATCH", path=one, handler=self.update, scope=run, action="sandbox.update"),
            Endpoint(method="DELETE", path=one, handler=self.delete, scope=run, action="sandbox.delete"),
            *(
                Endpoint(method="POST", path=f"{one}/{verb}", handler=self.sleep, scope=run, action="sandbox.sleep")
                for verb in ("sleep", *_SLEEP_BEFORE)
            ),
            *(
                Endpoint(method="POST", path=f"{one}/{verb}", handler=self.wake, scope=run, action="sandbox.wake")
                for verb in ("wake", *_WAKE_BEFORE)
            ),
            Endpoint(method="POST", path=f"{one}/start", handler=self.start, scope=run, action="sandbox.start"),
            Endpoint(method="POST", path=f"{one}/restart", handler=self.restart, scope=run, action="sandbox.restart"),
            Endpoint(method="GET", path=f"{one}/metrics", handler=self.metrics, scope=read, action="sandbox.metrics"),
        ]

    @contract(Enveloped[SandboxObject], status=201, body=CreateRequest, refusals=GUEST, yields={"id": "/data/id"})
    async def create(self, request: Request, who: Principal) -> Response:
        """Create a sandbox. If it takes longer than the server lets a client wait, it is created in the background.

        A client that disconnects meanwhile finds it in the list.
        """
        wanted = await parse_body(request, CreateRequest)
        spec = wanted.spec(who, self._defaults, self._fleet.images())
        wait_s = self._defaults.create_wait_s if wanted.sync else 0
        sandbox = await self._fleet.sandboxes.begin(who.org_id, spec, wait_s=wait_s)
        annotate_call(sandbox=sandbox.id)
        return success("Sandbox created", sandbox_object(sandbox), status=201)

    @contract(Paged[SandboxObject], query=SandboxPage)
    async def list(self, request: Request, who: Principal) -> Response:
        """List the organisation's sandboxes, newest first, in pages."""
        page = parse_query(request, SandboxPage)
        selector = parse_selector(page.labels)
        found = await self._fleet.sandboxes.list(who.org_id, labels=selector or None, page=page.page, limit=page.limit)
        return success("Sandboxes fetched", [sandbox_object(item) for item in found.items], meta=page.meta(found.total))

    @contract(Enveloped[SandboxObject])
    async def get(self, request: Request, who: Principal) -> Response:
        """Return one sandbox, with its last connections if it tried any."""
        sandbox = await self._fleet.sandboxes.get(who.org_id, request.path_params["id"])
        last = [event_object(event) for event in self._fleet.network.of(sandbox).log.last(_EVENTS)]
        return success("Sandbox details fetched", sandbox_object(sandbox) | ({"networkLog": last} if last else {}))

    @contract(Enveloped[SandboxObject], body=UpdateRequest, refusals=GUEST)
    async def update(self, request: Request, who: Principal) -> Response:
        """Change autoSleep, name, labels, ttl, idle or network."""
        wanted = await parse_body(request, UpdateRequest)
        if wanted == UpdateRequest():
            raise InvalidInput("Nothing to change", hint="Give autoSleep, name, labels, ttl, idle or network")
        sandbox = await self._fleet.sandboxes.update(
            who.org_id,
            request.path_params["id"],
            name=None if wanted.name is None else wanted.name.strip(),
            labels=wanted.labels,
            auto_sleep=wanted.auto_sleep,
            ttl_s=wanted.ttl,
            idle_s=wanted.idle,
            network=None if wanted.network is None else parse_network(wanted.network),
        )
        return success("Sandbox updated", sandbox_object(sandbox))

    @contract(Done, refusals=GUEST)
    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a sandbox with its files and programs."""
        await self._fleet.sandboxes.delete(who.org_id, request.path_params["id"])
        return success("Sandbox deleted")

    # VoidRun answers every failure of these three with 500. Clients distinguish failures only by status, so Casemate
    # sends the usual ones: not found (404), conflict (409), retry later (503, 529).

    @contract(Done, refusals=GUEST)
    async def sleep(self, request: Request, who: Principal) -> Response:
        """Put a sandbox to sleep, with its memory; no error if it is asleep."""
        await self._fleet.lifecycle.sleep(who.org_id, request.path_params["id"])
        return success("Sandbox snapshotted")

    @contract(Done, refusals=GUEST)
    async def wake(self, request: Request, who: Principal) -> Response:
        """Wake a sandbox; no error if it is awake."""
        await self._fleet.lifecycle.wake(who.org_id, request.path_params["id"])
        return success("Sandbox restored")

    @contract(Done, refusals=GUEST)
    async def start(self, request: Request, who: Principal) -> Response:
        """Start a sandbox, also a killed one; its `reason` then says what was lost."""
        await self._fleet.lifecycle.revive(who.org_id, request.path_params["id"])
        return success("Sandbox started")

    @contract(Enveloped[SandboxObject], body=RestartRequest, refusals=GUEST)
    async def restart(self, request: Request, who: Principal) -> Response:
        """Restart a sandbox, even if its guest does not answer; its `reason` says what was lost."""
        wanted = await parse_body(request, RestartRequest)
        sandbox = await self._fleet.lifecycle.restart(
            who.org_id, request.path_params["id"], from_snapshot=wanted.from_snapshot
        )
        return success("Sandbox restarted", sandbox_object(sandbox))

    @contract(UsageObject, refusals=GUEST)
    async def metrics(self, request: Request, who: Principal) -> Response:
        """Return a sandbox's resource usage as its kernel reports it."""
        seen = await self._fleet.guest.metrics(who.org_id, request.path_params["id"])
        return JSONResponse(
            UsageObject(
                uptimeMs=seen.uptime_ms,
                memoryTotal=seen.memory_total,
                memoryAvailable=seen.memory_available,
                diskTotal=seen.disk_total,
                diskFree=seen.disk_free,
                cpuUsedMs=seen.cpu_used_ms,
                processes=seen.processes,
            )
        )
