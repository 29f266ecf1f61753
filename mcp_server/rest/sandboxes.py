"""Sandboxes over REST: create, list, get, change, delete, and what they use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse

from auth.roles import Scope
from mcp_server.audit.entry import annotate_call
from mcp_server.wire import parse_selector, sandbox_object
from vmm.errors import InvalidInput
from vmm.sandboxes.spec import SandboxSpec

from .body import WireModel, parse_body
from .endpoint import Endpoint
from .envelope import success
from .paging import asked_page

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.principal import Principal
    from mcp_server.defaults import Defaults
    from vmm.fleet import Fleet

Amount = Annotated[int, Field(gt=-(2**31), lt=2**31)]
"""A number that the fleet can be asked about; it says itself what is too much."""


class CreateRequest(WireModel):
    """A sandbox to make; `ttl` and `idle` are seconds, of a `snapshot` it has image, cpu and mem, whatever is sent.

    `orgId` and `userId` are those of the credential, whatever is sent; `region` has no meaning on one host; `sync`
    false changes nothing, for the answer comes as soon as the sandbox can be used.
    """

    name: str
    image: str = ""
    cpu: Amount | None = None
    mem: Amount | None = None
    org_id: str = ""
    user_id: str = ""
    sync: bool = True
    env_vars: dict[str, str] = Field(default_factory=dict[str, str])
    auto_sleep: bool = True
    ttl: Amount = 0
    idle: Amount | None = None
    snapshot: str = ""
    region: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    publish_ports: list[Any] = Field(default_factory=list[Any])
    ports: list[Any] = Field(default_factory=list[Any])

    def spec(self, who: Principal, defaults: Defaults) -> SandboxSpec:
        """The wish in the fleet's terms.

        Raises:
            InvalidInput: It asks for ports.
        """
        for name, ports in (("publishPorts", self.publish_ports), ("ports", self.ports)):
            if ports:
                raise InvalidInput(
                    f"{name}: {str(ports[:4])[:80]} cannot be published yet, sandboxes have no network",
                    hint="Leave it out and reach servers from inside, with exec",
                )
        return SandboxSpec(
            name=self.name.strip(),
            image=self.image.strip().removesuffix(":latest") or defaults.image,
            cpu=defaults.cpu if self.cpu is None else self.cpu,
            mem=defaults.mem if self.mem is None else self.mem,
            labels=self.labels,
            env=self.env_vars,
            auto_sleep=self.auto_sleep,
            ttl_s=self.ttl,
            idle_s=defaults.idle_s if self.idle is None else self.idle,
            snapshot=self.snapshot.strip(),
            created_by=who.user_id,
        )


class UpdateRequest(WireModel):
    """What to change; the rest stays. `ttl` is seconds from now on, `idle` seconds without use; 0 is no limit."""

    model_config = ConfigDict(extra="forbid")

    auto_sleep: bool | None = None
    name: str | None = None
    labels: dict[str, str] | None = None
    ttl: Amount | None = None
    idle: Amount | None = None


class RestartRequest(WireModel):
    """What to restart from: the disk, or the newest snapshot."""

    from_snapshot: bool = False


class SandboxRoutes:
    """The routes about sandboxes themselves."""

    def __init__(self, fleet: Fleet, defaults: Defaults) -> None:
        self._fleet = fleet
        self._defaults = defaults

    def endpoints(self) -> list[Endpoint]:
        """The routes of this module."""
        all_, one = "/api/sandboxes", "/api/sandboxes/{id}"
        run, read = Scope.RUN, Scope.READ
        return [
            Endpoint(method="GET", path=all_, handler=self.list, scope=read, action="sandbox.list"),
            Endpoint(method="POST", path=all_, handler=self.create, scope=run, action="sandbox.create"),
            Endpoint(method="GET", path=one, handler=self.get, scope=read, action="sandbox.get"),
            Endpoint(method="PATCH", path=one, handler=self.update, scope=run, action="sandbox.update"),
            Endpoint(method="DELETE", path=one, handler=self.delete, scope=run, action="sandbox.delete"),
            Endpoint(method="POST", path=f"{one}/sleep", handler=self.sleep, scope=run, action="sandbox.sleep"),
            Endpoint(method="POST", path=f"{one}/wake", handler=self.wake, scope=run, action="sandbox.wake"),
            Endpoint(method="POST", path=f"{one}/start", handler=self.start, scope=run, action="sandbox.start"),
            Endpoint(method="POST", path=f"{one}/restart", handler=self.restart, scope=run, action="sandbox.restart"),
            Endpoint(method="GET", path=f"{one}/metrics", handler=self.metrics, scope=read, action="sandbox.metrics"),
        ]

    async def create(self, request: Request, who: Principal) -> Response:
        """Make a sandbox. A client that goes away meanwhile finds it in the list."""
        wish = await parse_body(request, CreateRequest)
        sandbox = await self._fleet.sandboxes.create(who.org_id, wish.spec(who, self._defaults))
        annotate_call(sandbox=sandbox.id)
        return success("Sandbox created", sandbox_object(sandbox), status=201)

    async def list(self, request: Request, who: Principal) -> Response:
        """The owner's sandboxes, newest first, by pages."""
        selector = parse_selector(request.query_params.get("labels", ""))
        page = asked_page(request)
        found = await self._fleet.sandboxes.list(
            who.org_id, labels=selector or None, page=page.number, limit=page.limit
        )
        return success("Sandboxes fetched", [sandbox_object(item) for item in found.items], meta=page.meta(found.total))

    async def get(self, request: Request, who: Principal) -> Response:
        """One sandbox."""
        sandbox = await self._fleet.sandboxes.get(who.org_id, request.path_params["id"])
        return success("Sandbox details fetched", sandbox_object(sandbox))

    async def update(self, request: Request, who: Principal) -> Response:
        """Change autoSleep, name, labels, ttl or idle."""
        wish = await parse_body(request, UpdateRequest)
        if wish == UpdateRequest():
            raise InvalidInput("Nothing to change", hint="Give autoSleep, name, labels, ttl or idle")
        sandbox = await self._fleet.sandboxes.update(
            who.org_id,
            request.path_params["id"],
            name=None if wish.name is None else wish.name.strip(),
            labels=wish.labels,
            auto_sleep=wish.auto_sleep,
            ttl_s=wish.ttl,
            idle_s=wish.idle,
        )
        return success("Sandbox updated", sandbox_object(sandbox))

    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a sandbox with all that is in it."""
        await self._fleet.sandboxes.delete(who.org_id, request.path_params["id"])
        return success("Sandbox deleted")

    # VoidRun answers every failure of these three with 500. Its clients tell failures apart by status alone and read no
    # text, so what is not there (404), cannot be (409) or may work later (503, 529) is said as everywhere else.

    async def sleep(self, request: Request, who: Principal) -> Response:
        """Put a sandbox to sleep, with its memory; no error if it sleeps."""
        await self._fleet.lifecycle.sleep(who.org_id, request.path_params["id"])
        return success("Sandbox snapshotted")

    async def wake(self, request: Request, who: Principal) -> Response:
        """Wake a sandbox; no error if it is awake."""
        await self._fleet.lifecycle.wake(who.org_id, request.path_params["id"])
        return success("Sandbox restored")

    async def start(self, request: Request, who: Principal) -> Response:
        """Have a sandbox run again, also one that was killed; its `reason` says then what is lost."""
        await self._fleet.lifecycle.revive(who.org_id, request.path_params["id"])
        return success("Sandbox started")

    async def restart(self, request: Request, who: Principal) -> Response:
        """Start a sandbox again, whatever its guest does; its `reason` says what is lost."""
        wish = await parse_body(request, RestartRequest)
        sandbox = await self._fleet.lifecycle.restart(
            who.org_id, request.path_params["id"], from_snapshot=wish.from_snapshot
        )
        return success("Sandbox restarted", sandbox_object(sandbox))

    async def metrics(self, request: Request, who: Principal) -> Response:
        """What a sandbox uses, as its own kernel sees it."""
        seen = await self._fleet.guest.metrics(who.org_id, request.path_params["id"])
        return JSONResponse(
            {
                "uptimeMs": seen.uptime_ms,
                "memoryTotal": seen.memory_total,
                "memoryAvailable": seen.memory_available,
                "diskTotal": seen.disk_total,
                "diskFree": seen.disk_free,
                "cpuUsedMs": seen.cpu_used_ms,
                "processes": seen.processes,
            }
        )
