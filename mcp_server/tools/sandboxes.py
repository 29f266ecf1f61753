"""Tools that create, find, change and delete sandboxes. Results are VoidRun's objects, as compact JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from mcp_server.audit.entry import annotate_call
from mcp_server.image_names import image_named
from mcp_server.wire import compact, network_shown, parse_network, parse_selector, sandbox_shown
from vmm.errors import InvalidInput
from vmm.sandboxes.published import check_listed, new_entries
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.volume_mount import VolumeMount

from .caller import caller
from .progress import ProgressReporter
from .tool_spec import ADDS, NO_PAIRS, READS, REPLACES, SETS, Pairs, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from mcp_server.defaults import Defaults
    from mcp_server.ports.published import PublishedPorts
    from vmm.fleet import Fleet

_PAGE = 20
_PAGE_MOST = 100
_NO_PORTS: list[int] = []
_READ_ONLY = ":ro"
_OPEN = "none, internet, packages, learn; or what to allow: names, *.names, CIDRs, ports such as 443/tcp"
_VOIDRUN_NAMES = {"env_vars": "envVars", "auto_sleep": "autoSleep", "publish_ports": "publishPorts"}


class SandboxTools:
    """The tools for sandboxes themselves."""

    def __init__(self, fleet: Fleet, *, defaults: Defaults, ports: PublishedPorts) -> None:
        self._fleet = fleet
        self._ports = ports
        self._defaults = defaults

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [
            ToolSpec(
                function=self.create_sandbox,
                hints=ADDS,
                core=True,
                renamed=_VOIDRUN_NAMES,
                defaults={"cpu": self._defaults.cpu, "mem": self._defaults.mem},
            ),
            ToolSpec(function=self.list_sandboxes, hints=READS, core=True),
            ToolSpec(function=self.get_sandbox, hints=READS),
            ToolSpec(function=self.update_sandbox, hints=SETS, renamed=_VOIDRUN_NAMES),
            ToolSpec(function=self.start_sandbox, hints=REPLACES),
            ToolSpec(function=self.restart_sandbox, hints=REPLACES),
            ToolSpec(function=self.delete_sandbox, hints=REPLACES, core=True),
        ]

    async def create_sandbox(
        self,
        ctx: Context,
        name: Annotated[str, Field(description="Lower-case letters, digits, '-'; such as build-1")],
        image: Annotated[str, Field(description="code (default: bash, Python, Node, C, git) or minimal")] = "",
        cpu: Annotated[int, Field(description="1-8")] = 1,
        mem: Annotated[int, Field(description="MiB, 256-16384")] = 1024,
        env_vars: Annotated[Pairs, Field(description="Environment of all its commands")] = NO_PAIRS,
        auto_sleep: bool = True,
        labels: Pairs = NO_PAIRS,
        snapshot: Annotated[str, Field(description="Start from this snapshot, with its image, cpu and mem")] = "",
        ttl: Annotated[int, Field(description="Seconds until it is deleted, not counted asleep; 0 = never")] = 0,
        network: Annotated[str | list[str], Field(description=_OPEN)] = "",
        publish_ports: Annotated[list[int], Field(description="At most 4; publish_port returns URLs")] = _NO_PORTS,
        volumes: Annotated[Pairs, Field(description="Path by volume: /data, or /data:ro to only read")] = NO_PAIRS,
    ) -> str:
        """Create a sandbox: a Linux microVM for you alone, with root. Usable when this returns.

        It and its files stay until delete_sandbox. When idle it falls asleep; the next call wakes it as it was.
        """
        check_listed(publish_ports, name="publishPorts")
        who = caller()
        spec = SandboxSpec(
            name=name.strip(),
            image=image_named(image, self._fleet.images()) or self._defaults.image,
            cpu=cpu,
            mem=mem,
            labels=labels,
            env=env_vars,
            auto_sleep=auto_sleep,
            ttl_s=ttl,
            idle_s=self._defaults.idle_s,
            snapshot=snapshot.strip(),
            network=parse_network(network),
            published=new_entries(dict.fromkeys(publish_ports, "http")),
            volumes=[_mount(volume, path) for volume, path in volumes.items()],
            created_by=who.user_id,
        )
        progress = ProgressReporter(ctx)
        sandbox = await progress.during(
            lambda: self._fleet.sandboxes.create(who.org_id, spec, on_progress=progress.tell),
            f"creating {spec.name[:60]}",
        )
        annotate_call(sandbox=sandbox.id)
        return compact(sandbox_shown(sandbox))

    async def list_sandboxes(
        self,
        page: int = 1,
        limit: Annotated[int, Field(description="0 = 20, at most 100")] = 0,
        labels: Annotated[str, Field(description="Only those with these: key=value,key2=value2")] = "",
    ) -> str:
        """List your sandboxes, newest first."""
        found = await self._fleet.sandboxes.list(
            caller().org_id,
            labels=parse_selector(labels) or None,
            page=max(page, 1),
            limit=_PAGE if limit <= 0 else min(limit, _PAGE_MOST),
        )
        sandboxes = [sandbox_shown(item) for item in found.items if item.state is not State.CREATING]
        return compact({"sandboxes": sandboxes, "total": found.total, "page": found.page})

    async def get_sandbox(self, ref: SandboxRef) -> str:
        """Show one sandbox; snapshotted means asleep. If unresponsive, in error or killed, `reason` says why."""
        sandbox = await self._fleet.sandboxes.get(caller().org_id, ref)
        shown = {**sandbox_shown(sandbox), "network": network_shown(self._fleet.network.of(sandbox))}
        ports = self._ports.of(sandbox)
        return compact(shown | ({"ports": ports} if ports else {}))

    async def update_sandbox(
        self,
        ref: SandboxRef,
        auto_sleep: bool | None = None,
        name: str = "",
        labels: Annotated[Pairs | None, Field(description="Replaces all labels")] = None,
        ttl: Annotated[int | None, Field(description="Seconds from now until it is deleted; 0 = never")] = None,
        idle: Annotated[int | None, Field(description="Seconds without use until it sleeps; 0 = never")] = None,
        network: Annotated[str | list[str], Field(description=f"{_OPEN}; default = the server's")] = "",
    ) -> str:
        """Change a sandbox; omitted values stay as they are."""
        if not name and network == "" and all(value is None for value in (auto_sleep, labels, ttl, idle)):
            raise InvalidInput("Nothing to change", hint="Give name, labels, autoSleep, ttl, idle or network")
        sandbox = await self._fleet.sandboxes.update(
            caller().org_id,
            ref,
            name=name.strip() or None,
            labels=labels,
            auto_sleep=auto_sleep,
            ttl_s=ttl,
            idle_s=idle,
            # A model that sends an empty text means that nothing is to change; the word `default` is explicit.
            network=parse_network(network) or None,
        )
        return compact(sandbox_shown(sandbox))

    async def start_sandbox(self, ctx: Context, ref: SandboxRef) -> str:
        """Start a killed sandbox again, from its newest snapshot or else its disk; `reason` says what is lost."""
        owner = caller().org_id
        sandbox = await ProgressReporter(ctx).during(
            lambda: self._fleet.lifecycle.revive(owner, ref), "starting the sandbox"
        )
        return compact(sandbox_shown(sandbox))

    async def restart_sandbox(
        self,
        ctx: Context,
        ref: SandboxRef,
        from_snapshot: Annotated[bool, Field(description="Go back to its newest snapshot instead")] = False,
    ) -> str:
        """Restart an unresponsive sandbox, or any other, from its disk: programs and memory are lost."""
        owner = caller().org_id
        sandbox = await ProgressReporter(ctx).during(
            lambda: self._fleet.lifecycle.restart(owner, ref, from_snapshot=from_snapshot), "restarting the sandbox"
        )
        return compact(sandbox_shown(sandbox))

    async def delete_sandbox(self, ref: SandboxRef) -> str:
        """Delete a sandbox with its files and everything that runs in it. Cannot be undone; its snapshots stay."""
        await self._fleet.sandboxes.delete(caller().org_id, ref)
        return compact({"status": "deleted"})


def _mount(volume: str, path: str) -> VolumeMount:
    return VolumeMount(volume=volume.strip(), path=path.removesuffix(_READ_ONLY), read_only=path.endswith(_READ_ONLY))
