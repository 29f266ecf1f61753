"""Tools for volumes: disks that outlive sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mcp_server.wire import compact, volume_object
from vmm.errors import InvalidInput
from vmm.volumes.volume import SIZE

from .caller import caller
from .tool_spec import READS, REPLACES, ToolSpec

if TYPE_CHECKING:
    from typing import Any

    from vmm.fleet import Fleet
    from vmm.volumes.volume import Volume

_LISTED = 50
_FIELDS = ("id", "name", "sizeMB", "attachments", "sourceId")


class VolumeTools:
    """The tools for volumes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [
            ToolSpec(function=self.list_volumes, hints=READS),
            ToolSpec(function=self.change_volume, hints=REPLACES),
        ]

    async def list_volumes(
        self, ref: Annotated[str, Field(description="Only those of this sandbox, by id or name")] = ""
    ) -> str:
        """List your volumes, at most 50, and which sandboxes have them."""
        found = await self._fleet.volumes.list(caller().org_id, sandbox=ref.strip())
        return compact({"volumes": [_summary(volume) for volume in found[:_LISTED]], "total": len(found)})

    async def change_volume(
        self,
        action: Literal["attach", "detach", "create", "snapshot", "delete"],
        name: Annotated[str, Field(description="The volume's")],
        ref: Annotated[str, Field(description="Sandbox, for attach and detach")] = "",
        path: Annotated[str, Field(description="Where to mount it, such as /data")] = "",
        read_only: Annotated[bool, Field(description="Several sandboxes may share it")] = False,
        size: Annotated[int, Field(description="MiB, for create: 64-16384")] = SIZE,
        copy_name: Annotated[str, Field(description="For snapshot, which copies it to a new volume")] = "",
    ) -> str:
        """Volumes are disks that outlive sandboxes: one sandbox has one read-write, or several read-only.

        Detach fails while programs use it, delete while a sandbox has it.
        """
        who, volumes, name, ref = caller(), self._fleet.volumes, name.strip(), ref.strip()
        if action in {"attach", "detach"} and not ref:
            raise InvalidInput(f"id is required to {action} a volume", hint="Give the sandbox's id or name")
        match action:
            case "create":
                volume = await volumes.create(who.org_id, name, size=size, created_by=who.user_id)
            case "attach":
                volume = await volumes.attach(who.org_id, ref, name, path, read_only=read_only)
            case "detach":
                volume = await volumes.detach(who.org_id, ref, name)
            case "snapshot":
                volume = await volumes.snapshot(who.org_id, name, copy_name.strip(), created_by=who.user_id)
            case "delete":
                await volumes.delete(who.org_id, name)
                return compact({"status": "deleted", "name": name})
        return compact(_summary(volume))


def _summary(volume: Volume) -> dict[str, Any]:
    whole: dict[str, Any] = {**volume_object(volume)}
    return {name: whole[name] for name in _FIELDS if whole.get(name)}
