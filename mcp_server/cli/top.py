"""`casemate top`: what sandboxes use, as a table that is drawn anew until an interrupt."""

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
    """What a sandbox uses. Memory and disk in bytes; None where its guest says nothing.

    Attributes:
        status: In the server's word.
        state: In one for people.
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
        """A row of the table."""
        cpu = "-" if self.cpu_percent is None else f"{self.cpu_percent:.1f}"
        sizes = (self.memory_used, self.memory_total, self.disk_used, self.disk_total)
        return (self.id, self.name, self.state, cpu, *(amount(size) for size in sizes), cell(self.processes))

    def as_json(self) -> Object:
        """The same for programs."""
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
    """What a sandbox uses, from two looks at its guest; CPU in percent of one core.

    Args:
        sandbox: As the list has it.
        before: Its metrics some time ago; empty if they are not known.
        now: Its metrics now; empty if they are not known.
    """

    def number(look: Object, name: str) -> int | None:
        value = look.get(name)
        return value if isinstance(value, int) else None

    def difference(one: int | None, other: int | None) -> int | None:
        return None if one is None or other is None else one - other

    worked = difference(number(now, "cpuUsedMs"), number(before, "cpuUsedMs"))
    passed = difference(number(now, "uptimeMs"), number(before, "uptimeMs"))
    return Usage(
        id=cell(sandbox.get("id")),
        name=cell(sandbox.get("name")),
        status=cell(sandbox.get("status")),
        state=status_of(sandbox),
        cpu_percent=100 * max(worked, 0) / passed if worked is not None and passed and passed > 0 else None,
        memory_used=difference(number(now, "memoryTotal"), number(now, "memoryAvailable")),
        memory_total=number(now, "memoryTotal"),
        disk_used=difference(number(now, "diskTotal"), number(now, "diskFree")),
        disk_total=number(now, "diskTotal"),
        processes=number(now, "processes"),
    )


def top(
    context: typer.Context,
    ref: Annotated[
        str, typer.Argument(metavar="[REF]", help="One sandbox; default: all.", autocompletion=complete_sandbox)
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Look for a second, show it, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what sandboxes use: CPU in percent of one core, memory, disk, processes. It wakes none that sleeps.

    With --json it prints a list for each look, on a line of its own unless there is but one.
    """
    if ref:
        check_ref(ref)
    single = once or not (out.is_terminal or as_json)

    async def work() -> None:
        async with open_remote(target_of(context)) as remote:
            looks = _Looks(remote, ref)
            await looks.next()
            await anyio.sleep(_FIRST_S)
            if single:
                _show(await looks.next(), as_json=as_json)
            elif as_json:
                while True:
                    show_json([one.as_json() for one in await looks.next()], lines=True)
                    await anyio.sleep(_INTERVAL_S)
            else:
                with Live(console=out, screen=True, auto_refresh=False) as live:
                    while True:
                        live.update(_drawn(await looks.next()), refresh=True)
                        await anyio.sleep(_INTERVAL_S)

    run(work)


class _Looks:
    """Looks at the sandboxes again and again."""

    def __init__(self, remote: Remote, ref: str) -> None:
        self._remote = remote
        self._ref = ref
        self._before: dict[str, Object] = {}

    async def next(self) -> list[Usage]:
        """What they use since the look before."""
        if self._ref:
            found = [as_object(await self._remote.data("GET", route("sandboxes", self._ref)))]
        else:
            found = await self._remote.sandboxes()
        now: dict[str, Object] = {}
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def look(sandbox_id: str) -> None:
            async with limiter:
                try:
                    now[sandbox_id] = as_object(
                        await self._remote.call("GET", route("sandboxes", sandbox_id, "metrics"))
                    )
                except CliError:
                    return  # It ended or is being ended; its row says so, without figures.

        async with anyio.create_task_group() as tasks:
            for sandbox in found:
                if sandbox.get("status") == "running":
                    tasks.start_soon(look, cell(sandbox.get("id")))
        rows = [usage(one, self._before.get(one["id"], {}), now.get(one["id"], {})) for one in found]
        self._before = now
        return rows


def _show(rows: list[Usage], *, as_json: bool) -> None:
    if as_json:
        show_json([row.as_json() for row in rows])
    elif rows:
        show_table([_HEAD, *(row.shown() for row in rows)])
    else:
        note("There is no sandbox.")


def _drawn(rows: list[Usage]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in _HEAD:
        table.add_column(name, justify="left" if name in _HEAD[:3] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(plain(text)) for text in row.shown()))
    return table
