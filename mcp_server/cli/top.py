"""`casemate top`: show the resource usage of sandboxes in a table that refreshes until interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import anyio
import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .console import CliError, note, out, plain, run, show_json, show_table
from .options import AsJson, complete_sandbox, target_of
from .remote import Remote, route
from .target import open_remote
from .values import Object, amount, as_object, cell, check_ref, status_of

_INTERVAL_S = 2.0
_FIRST_S = 1.0
_AT_ONCE = 8
_HEAD = ("id", "name", "status", "cpu %", "memory", "of", "disk", "of", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Resource usage of a sandbox. Memory and disk are in bytes; None where the guest reports no value.

    Attributes:
        status: The status on the wire.
        state: The status for display.
    """

    id: str
    name: str
    status: str
    state: str
    cpu_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    disk_used: int | None = None
    disk_total: int | None = None
    processes: int | None = None

    def shown(self) -> tuple[str, ...]:
        """Return a row of the table."""
        cpu = "-" if self.cpu_percent is None else f"{self.cpu_percent:.1f}"
        sizes = (self.memory_used, self.memory_total, self.disk_used, self.disk_total)
        return (self.id, self.name, self.state, cpu, *(amount(size) for size in sizes), cell(self.processes))

    def as_json(self) -> Object:
        """Return the usage as a JSON object."""
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "cpuPercent": None if self.cpu_percent is None else round(self.cpu_percent, 1),
            "memoryUsed": self.memory_used,
            "memoryTotal": self.memory_total,
            "diskUsed": self.disk_used,
            "diskTotal": self.disk_total,
            "processes": self.processes,
        }


def usage(sandbox: Object, before: Object, now: Object) -> Usage:
    """Calculate usage from two samples of a guest's metrics, with CPU in percent of one core.

    Args:
        sandbox: The sandbox as listed.
        before: Its earlier metrics; empty if unknown.
        now: Its current metrics; empty if unknown.
    """

    def number(metrics: Object, name: str) -> int | None:
        value = metrics.get(name)
        return value if isinstance(value, int) else None

    def difference(one: int | None, other: int | None) -> int | None:
        return None if one is None or other is None else one - other

    cpu_ms = difference(number(now, "cpuUsedMs"), number(before, "cpuUsedMs"))
    elapsed_ms = difference(number(now, "uptimeMs"), number(before, "uptimeMs"))
    return Usage(
        id=cell(sandbox.get("id")),
        name=cell(sandbox.get("name")),
        status=cell(sandbox.get("status")),
        state=status_of(sandbox),
        cpu_percent=100 * max(cpu_ms, 0) / elapsed_ms if cpu_ms is not None and elapsed_ms and elapsed_ms > 0 else None,
        memory_used=difference(number(now, "memoryTotal"), number(now, "memoryAvailable")),
        memory_total=number(now, "memoryTotal"),
        disk_used=difference(number(now, "diskTotal"), number(now, "diskFree")),
        disk_total=number(now, "diskTotal"),
        processes=number(now, "processes"),
    )


def top(
    context: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="[SANDBOX]", help="Id or name of one sandbox; default: all.", autocompletion=complete_sandbox
        ),
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Show one sample, measured over 1 s, and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show CPU (in percent of one core), memory, disk and processes of sandboxes, without waking any.

    With --json, print one list per sample, each on one line; with --once, print a single indented list.
    """
    if ref:
        check_ref(ref)
    single = once or not (out.is_terminal or as_json)

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            sampler = _Sampler(remote, ref)
            await sampler.sample()
            await anyio.sleep(_FIRST_S)
            if single:
                _show(await sampler.sample(), as_json=as_json)
            elif as_json:
                while True:
                    show_json([one.as_json() for one in await sampler.sample()], lines=True)
                    await anyio.sleep(_INTERVAL_S)
            else:
                with Live(console=out, screen=True, auto_refresh=False) as live:
                    while True:
                        live.update(_table(await sampler.sample()), refresh=True)
                        await anyio.sleep(_INTERVAL_S)

    run(work)


class _Sampler:
    """Samples the metrics of sandboxes."""

    def __init__(self, remote: Remote, ref: str) -> None:
        self._remote = remote
        self._ref = ref
        self._before: dict[str, Object] = {}

    async def sample(self) -> list[Usage]:
        """Return the usage since the previous sample."""
        if self._ref:
            found = [as_object(await self._remote.data("GET", route("sandboxes", self._ref)))]
        else:
            found = await self._remote.sandboxes()
        now: dict[str, Object] = {}
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def fetch(sandbox_id: str) -> None:
            async with limiter:
                try:
                    now[sandbox_id] = as_object(
                        await self._remote.call("GET", route("sandboxes", sandbox_id, "metrics"))
                    )
                except CliError:
                    return  # The sandbox was or is being deleted; its row shows the status without figures.

        async with anyio.create_task_group() as tasks:
            for sandbox in found:
                if sandbox.get("status") == "running":
                    tasks.start_soon(fetch, cell(sandbox.get("id")))
        rows = [usage(one, self._before.get(one["id"], {}), now.get(one["id"], {})) for one in found]
        self._before = now
        return rows


def _show(rows: list[Usage], *, as_json: bool) -> None:
    if as_json:
        show_json([row.as_json() for row in rows])
    elif rows:
        show_table([_HEAD, *(row.shown() for row in rows)])
    else:
        note("No sandboxes.")


def _table(rows: list[Usage]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in _HEAD:
        table.add_column(name, justify="left" if name in _HEAD[:3] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(plain(text)) for text in row.shown()))
    return table
