"""Tools that save whole sandboxes, go back to what was saved, and make copies that go on from one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.server.mcpserver import Context
from pydantic import Field

from mcp_server.audit.entry import annotate_call
from mcp_server.wire import compact, fork_objects, sandbox_shown, snapshot_object, timestamp

from .caller import caller
from .progress import ProgressReporter
from .tool_spec import ADDS, READS, REPLACES, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from typing import Any

    from vmm.fleet import Fleet
    from vmm.machines.snapshots import Snapshot

_LISTED = 30
_TOLD = ("id", "name", "sandboxId", "sandboxName", "parentId", "createdAt", "sizeBytes", "damage")
_NAMED = ("id", "name", "error", "hint")

SnapshotRef = Annotated[str, Field(description="Name, id, or the beginning of an id")]


class SnapshotTools:
    """The tools about snapshots and forks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def tool_specs(self) -> list[ToolSpec]:
        """List the tools of this module."""
        return [
            ToolSpec(function=self.snapshot_sandbox, hints=ADDS),
            ToolSpec(function=self.list_snapshots, hints=READS),
            ToolSpec(function=self.restore_snapshot, hints=REPLACES),
            ToolSpec(function=self.delete_snapshot, hints=REPLACES),
            ToolSpec(function=self.fork_sandbox, hints=ADDS),
        ]

    async def snapshot_sandbox(
        self,
        ctx: Context,
        ref: SandboxRef,
        name: Annotated[str, Field(description="Such as before-upgrade")] = "",
    ) -> str:
        """Save a sandbox as it is: files, memory and running programs, which go on.

        Do so before what may go wrong: restore_snapshot undoes it. create_sandbox makes new ones from a snapshot.
        """
        who = caller()
        snapshot = await ProgressReporter(ctx).during(
            lambda: self._fleet.snapshots.take(who.org_id, ref, name=name.strip(), created_by=who.user_id),
            "saving the sandbox",
        )
        return compact(_told(snapshot))

    async def list_snapshots(
        self, ref: Annotated[str, Field(description="Only those of this sandbox, by id or name")] = ""
    ) -> str:
        """List your snapshots, newest first, at most 30."""
        found = await self._fleet.snapshots.list(caller().org_id, sandbox=ref.strip())
        return compact({"snapshots": [_told(snapshot) for snapshot in found[:_LISTED]], "total": len(found)})

    async def restore_snapshot(self, ctx: Context, ref: SandboxRef, snapshot: SnapshotRef) -> str:
        """Put a sandbox back to a snapshot: its files, memory and programs are what they were then, later work is lost.

        A sandbox that was killed runs again after it.
        """
        owner = caller().org_id
        target = await self._fleet.snapshots.get(owner, snapshot.strip())
        sandbox = await ProgressReporter(ctx).during(
            lambda: self._fleet.snapshots.restore(owner, ref, target.id), "restoring the sandbox"
        )
        undone = f"All changes since {target.name} was taken, {timestamp(target.created_ms)}: files, memory, programs"
        return compact({**sandbox_shown(sandbox), "undone": undone})

    async def delete_snapshot(self, snapshot: SnapshotRef) -> str:
        """Delete a snapshot. Refused while there are other snapshots or sandboxes that were made from it."""
        owner = caller().org_id
        target = await self._fleet.snapshots.get(owner, snapshot.strip())
        annotate_call(sandbox=target.sandbox)
        await self._fleet.snapshots.delete(owner, target.id)
        return compact({"status": "deleted", "id": target.id, "name": target.name})

    async def fork_sandbox(
        self,
        ctx: Context,
        ref: SandboxRef,
        count: Annotated[int, Field(description="How many copies, 1-100")] = 1,
    ) -> str:
        """Make copies of a running sandbox that go on from this moment with its files, memory and programs.

        Use it to try several ways side by side. The sandbox itself runs on. You get an id, or an error, for each copy.
        """
        who = caller()
        progress = ProgressReporter(ctx)
        forks = await progress.during(
            lambda: self._fleet.snapshots.fork(
                who.org_id, ref, count, created_by=who.user_id, on_progress=progress.tell
            ),
            f"forking into {count}",
        )
        return compact({"forks": _briefly(fork_objects(forks))})


def _told(snapshot: Snapshot) -> dict[str, Any]:
    return _part(snapshot_object(snapshot), _TOLD)


def _briefly(children: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a model can afford to read of a hundred: names to use, and each reason once with how many copies it cost."""
    told: list[dict[str, Any]] = []
    for child in children:
        brief = _part(child, _NAMED)
        if "error" in brief and told and told[-1].get("error") == brief["error"]:
            told[-1]["copies"] = told[-1].get("copies", 1) + 1
        else:
            told.append(brief)
    return told


def _part(whole: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: whole[name] for name in names if whole.get(name)}
