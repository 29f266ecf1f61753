"""Tools for snapshots and forks of whole sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from mcp_server.audit.entry import annotate_call
from mcp_server.wire import compact, fork_objects, sandbox_shown, snapshot_object, timestamp

from .caller import caller
from .progress import ProgressReporter
from .tool_spec import ADDS, READS, REPLACES, SandboxRef, ToolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from mcp_server.shapes import ForkObject
    from vmm.fleet import Fleet
    from vmm.machines.snapshots import Snapshot

_LISTED = 30
_SNAPSHOT_FIELDS = ("id", "name", "sandboxId", "sandboxName", "parentId", "createdAt", "sizeBytes", "damage")
_FORK_FIELDS = ("id", "name", "error", "hint")

SnapshotRef = Annotated[str, Field(description="Name, id, or the beginning of an id")]


class SnapshotTools:
    """The tools for snapshots and forks."""

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
        """Save a sandbox as it is: files, memory and running programs, which keep running.

        Do so before a risky step: restore_snapshot undoes it. create_sandbox makes new sandboxes from a snapshot.
        """
        who = caller()
        snapshot = await ProgressReporter(ctx).during(
            lambda: self._fleet.snapshots.take(who.org_id, ref, name=name.strip(), created_by=who.user_id),
            "saving the sandbox",
        )
        return compact(_snapshot_summary(snapshot))

    async def list_snapshots(
        self, ref: Annotated[str, Field(description="Only those of this sandbox, by id or name")] = ""
    ) -> str:
        """List your snapshots, newest first, at most 30."""
        found = await self._fleet.snapshots.list(caller().org_id, sandbox=ref.strip())
        return compact(
            {"snapshots": [_snapshot_summary(snapshot) for snapshot in found[:_LISTED]], "total": len(found)}
        )

    async def restore_snapshot(self, ctx: Context, ref: SandboxRef, snapshot: SnapshotRef) -> str:
        """Restore a sandbox to a snapshot: files, memory and programs are as they were then; later work is lost.

        A killed sandbox runs again afterwards.
        """
        owner = caller().org_id
        target = await self._fleet.snapshots.get(owner, snapshot.strip())
        sandbox = await ProgressReporter(ctx).during(
            lambda: self._fleet.snapshots.restore(owner, ref, target.id), "restoring the sandbox"
        )
        undone = f"All changes since {target.name} was taken, {timestamp(target.created_ms)}: files, memory, programs"
        return compact({**sandbox_shown(sandbox), "undone": undone})

    async def delete_snapshot(self, snapshot: SnapshotRef) -> str:
        """Delete a snapshot. Refused while other snapshots or sandboxes are based on it."""
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
        volumes: Annotated[Literal["copy", "none"], Field(description="Copy its volumes, too")] = "copy",
    ) -> str:
        """Make copies of a running sandbox that continue from this moment with its files, memory and programs.

        Use it to try several ways in parallel. The sandbox itself runs on. You get an id, or an error, for each copy.
        """
        who = caller()
        progress = ProgressReporter(ctx)
        forks = await progress.during(
            lambda: self._fleet.snapshots.fork(
                who.org_id, ref, count, volumes=volumes, created_by=who.user_id, on_progress=progress.tell
            ),
            f"forking into {count}",
        )
        return compact({"forks": _fork_summary(fork_objects(forks))})


def _snapshot_summary(snapshot: Snapshot) -> dict[str, Any]:
    return _part(snapshot_object(snapshot), _SNAPSHOT_FIELDS)


def _fork_summary(children: Sequence[ForkObject]) -> list[dict[str, Any]]:
    """Shorten up to a hundred children for a model: their names, and each error once with the number of copies."""
    summary: list[dict[str, Any]] = []
    for child in children:
        brief = _part(child, _FORK_FIELDS)
        if "error" in brief and summary and summary[-1].get("error") == brief["error"]:
            summary[-1]["copies"] = summary[-1].get("copies", 1) + 1
        else:
            summary.append(brief)
    return summary


def _part(whole: Mapping[str, object], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: whole[name] for name in names if whole.get(name)}
