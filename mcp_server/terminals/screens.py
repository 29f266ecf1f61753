"""A cache of rendered terminal screens, updated from the guest on demand.

The terminal itself is in the guest, which keeps its recent output. A screen can be rendered again from that at any
time, so the cache is bounded and losing an entry costs only time.

A sandbox that is restored to a snapshot gets a new machine, whose terminals have the same ids but other output. So
cache keys include the machine.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from .emulator import Emulator

if TYPE_CHECKING:
    from vmm.fleet import Fleet
    from vmm.guest.values import TerminalInfo, TerminalOutput
    from vmm.sandboxes.sandbox import Sandbox

_BACKLOG = 256 * 1024
_CHUNK = 32 * 1024
_GRACE_MS = 2_000
# A cell takes about a hundred bytes, and one terminal may have a million of them.
_MOST_CELLS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A terminal's screen at one moment.

    Attributes:
        rows: The screen's rows from the top, without trailing blanks.
        cursor: Row and column, counted from 1.
        size: Columns and rows.
        title: The window title that a program set.
        info: The terminal's status.
        settled: Whether there was no output for the requested time.
        found: Whether the awaited text is on the screen.
        skipped: Bytes of output that were not rendered, because there was too much.
    """

    rows: tuple[str, ...]
    cursor: tuple[int, int]
    size: tuple[int, int]
    title: str
    info: TerminalInfo
    settled: bool
    found: bool
    skipped: int


@dataclass(slots=True)
class CachedScreen:
    """The cached screen of a terminal.

    Attributes:
        offset: The offset up to which the output was read.
        live: Whether the screen has caught up, so that queries in new output need an answer.
    """

    emulator: Emulator
    offset: int = 0
    live: bool = False
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def cells(self) -> int:
        """The number of cells of the screen."""
        cols, rows = self.emulator.size
        return cols * rows


class ScreenCache:
    """The most recently used screens: at most `capacity`, and a million cells together, but always the latest."""

    def __init__(self, *, capacity: int = 64) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, str, str], CachedScreen] = OrderedDict()

    def see(self, key: tuple[str, str, str]) -> CachedScreen:
        """Return the screen of a terminal, new if necessary, and mark it as the most recently used."""
        screen = self._kept.setdefault(key, CachedScreen(Emulator(80, 24)))
        self._kept.move_to_end(key)
        self.trim()
        return screen

    def get(self, key: tuple[str, str, str]) -> CachedScreen | None:
        """Return the screen of a terminal, if it is cached."""
        return self._kept.get(key)

    def trim(self) -> None:
        """Drop screens beyond the limits, which screens can exceed as their terminals grow."""
        cells = sum(screen.cells for screen in self._kept.values())
        while len(self._kept) > self._capacity or (cells > _MOST_CELLS and len(self._kept) > 1):
            cells -= self._kept.popitem(last=False)[1].cells

    def forget(self, key: tuple[str, str, str]) -> None:
        """Drop a screen, if there is one."""
        self._kept.pop(key, None)


class Screens:
    """Renders the terminals of a fleet, and caches the most recently used screens."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._cache = ScreenCache()

    async def look(self, sandbox: Sandbox, terminal_id: str, *, wait_ms: int, settle_ms: int, text: str = "") -> View:
        """Render a terminal's screen, once it is at rest.

        Args:
            sandbox: The sandbox's current record.
            terminal_id: The terminal's id.
            wait_ms: The longest time to wait for rest, or for the text; catching up may take two more seconds.
            settle_ms: The screen is at rest after so long without output.
            text: A text that ends the wait as soon as it is on the screen; rest alone then does not end it.

        Raises:
            ProcessMissing: The terminal does not exist.
            CasemateError: Any other error of the fleet.
        """
        screen = self._cache.see(_key(sandbox, terminal_id))
        terminal = (sandbox.owner, sandbox.id, terminal_id)
        try:
            async with screen.lock:
                view = await self._look(terminal, screen, wait_ms=wait_ms, settle_ms=settle_ms, text=text)
        except BaseException:
            # A partly updated screen would be wrong: the next call renders it from the beginning.
            self.forget(sandbox, terminal_id)
            raise
        self._cache.trim()
        return view

    def application_cursor(self, sandbox: Sandbox, terminal_id: str) -> bool:
        """Whether the terminal expects arrow keys in application form, according to its cached screen."""
        screen = self._cache.get(_key(sandbox, terminal_id))
        return screen is not None and screen.emulator.application_cursor

    def forget(self, sandbox: Sandbox, terminal_id: str) -> None:
        """Drop a screen, if there is one."""
        self._cache.forget(_key(sandbox, terminal_id))

    async def _look(
        self, terminal: tuple[str, str, str], screen: CachedScreen, *, wait_ms: int, settle_ms: int, text: str
    ) -> View:
        deadline = anyio.current_time() + wait_ms / 1000
        skipped = 0
        pause = 0
        while True:
            output = await self._fleet.guest.terminal_read(*terminal, offset=screen.offset, wait_ms=pause)
            skipped += await self._feed(terminal, screen, output)
            behind = screen.offset < output.info.output_total
            settled = pause > 0 and not output.output.data
            found = bool(text) and await to_thread.run_sync(screen.emulator.shows, text)
            left_ms = int((deadline - anyio.current_time()) * 1000)
            resting = not behind and (not output.info.alive or (settled and not text))
            if found or resting or left_ms <= (-_GRACE_MS if behind else 0):
                return View(
                    rows=await to_thread.run_sync(screen.emulator.text),
                    cursor=screen.emulator.cursor,
                    size=screen.emulator.size,
                    title=screen.emulator.title,
                    info=output.info,
                    settled=settled or not output.info.alive,
                    found=found,
                    skipped=skipped,
                )
            pause = 0 if behind else max(min(settle_ms, left_ms), 1)

    async def _feed(self, terminal: tuple[str, str, str], screen: CachedScreen, output: TerminalOutput) -> int:
        """Update the screen with new output, and skip output if there is too much to render.

        Returns:
            The number of bytes skipped.
        """
        data, next_offset = output.output.data, output.output.next_offset
        skipped = output.output.offset - screen.offset
        behind = output.info.output_total - next_offset
        if behind > _BACKLOG:
            screen.offset = output.info.output_total - _BACKLOG // 2
            screen.emulator = Emulator(output.info.cols, output.info.rows)
            return screen.offset - (next_offset - len(data)) + skipped
        if skipped > 0:
            screen.emulator = Emulator(output.info.cols, output.info.rows)
        screen.emulator.resize(output.info.cols, output.info.rows)
        answers = b""
        for start in range(0, len(data), _CHUNK):
            answers += await to_thread.run_sync(screen.emulator.feed, data[start : start + _CHUNK])
        screen.offset = next_offset
        # Queries in old output were about another screen, or have been answered already.
        if answers and screen.live and output.info.alive:
            await self._fleet.guest.terminal_input(*terminal, answers)
        screen.live = True
        return skipped


def _key(sandbox: Sandbox, terminal_id: str) -> tuple[str, str, str]:
    return (sandbox.id, sandbox.machine, terminal_id)
