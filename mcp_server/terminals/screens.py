"""The screens of the terminals that somebody looks at: fed from the guest on demand, kept while they are in use.

A terminal lives in its guest; here is only its picture. It can be rebuilt at any time from what the guest still holds
of the output, so the number of pictures is bounded and losing one costs nothing but the time to draw it again.

A sandbox that is put back to a snapshot gets another machine, whose terminals have written less, or something else,
under the same ids: a picture belongs to a terminal of one machine.
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
# A cell takes about a hundred bytes, and a terminal may have a million of them.
_MOST_CELLS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A terminal's screen at one moment.

    Attributes:
        rows: The screen from the top, blanks at the ends of rows left out.
        cursor: Row and column, counted from 1.
        size: Columns and rows.
        title: The window's title as a program set it.
        info: How the terminal stands.
        settled: Whether output had ceased for as long as was asked.
        found: Whether the awaited text stands on the screen.
        skipped: Bytes of output that were passed over, because there was too much of it.
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
class Picture:
    """A terminal's screen as far as its output was read.

    Attributes:
        offset: Up to where it was read.
        live: Whether what comes now is as new as the terminal, so that its questions are to be answered.
    """

    emulator: Emulator
    offset: int = 0
    live: bool = False
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def cells(self) -> int:
        """How many letters it has room for."""
        cols, rows = self.emulator.size
        return cols * rows


class Pictures:
    """Those of terminals seen last: at most `capacity`, of a million cells together, and the last in any case."""

    def __init__(self, *, capacity: int = 64) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, str, str], Picture] = OrderedDict()

    def see(self, key: tuple[str, str, str]) -> Picture:
        """The picture of a terminal, a new one if need be; it is the last that goes now."""
        picture = self._kept.setdefault(key, Picture(Emulator(80, 24)))
        self._kept.move_to_end(key)
        self.trim()
        return picture

    def get(self, key: tuple[str, str, str]) -> Picture | None:
        """The picture of a terminal, if it is kept."""
        return self._kept.get(key)

    def trim(self) -> None:
        """Forget what is too much, since pictures grow with their terminals."""
        cells = sum(picture.cells for picture in self._kept.values())
        while len(self._kept) > self._capacity or (cells > _MOST_CELLS and len(self._kept) > 1):
            cells -= self._kept.popitem(last=False)[1].cells

    def forget(self, key: tuple[str, str, str]) -> None:
        """Drop a picture, if there is one."""
        self._kept.pop(key, None)


class Screens:
    """Looks at terminals through a fleet, and keeps pictures of those seen last."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._pictures = Pictures()

    async def look(self, sandbox: Sandbox, terminal_id: str, *, wait_ms: int, settle_ms: int, text: str = "") -> View:
        """Render a terminal's screen, once it has come to rest.

        Args:
            sandbox: Its record, as new as the call.
            terminal_id: The terminal's id.
            wait_ms: The longest time to wait for rest, or for the text; catching up may take two seconds more.
            settle_ms: Rest is when nothing was written for this long.
            text: When given, the wait ends as soon as this stands on the screen, and rest alone does not end it.

        Raises:
            ProcessMissing: There is no such terminal.
            CasemateError: Whatever else the fleet raises.
        """
        picture = self._pictures.see(_key(sandbox, terminal_id))
        terminal = (sandbox.owner, sandbox.id, terminal_id)
        try:
            async with picture.lock:
                view = await self._look(terminal, picture, wait_ms=wait_ms, settle_ms=settle_ms, text=text)
        except BaseException:
            # Half-fed pictures would show a screen that never was: the next look draws it anew.
            self.forget(sandbox, terminal_id)
            raise
        self._pictures.trim()
        return view

    def application_cursor(self, sandbox: Sandbox, terminal_id: str) -> bool:
        """Whether the terminal wants arrow keys in application form, as far as its last picture tells."""
        picture = self._pictures.get(_key(sandbox, terminal_id))
        return picture is not None and picture.emulator.application_cursor

    def forget(self, sandbox: Sandbox, terminal_id: str) -> None:
        """Drop a picture, if there is one."""
        self._pictures.forget(_key(sandbox, terminal_id))

    async def _look(
        self, terminal: tuple[str, str, str], picture: Picture, *, wait_ms: int, settle_ms: int, text: str
    ) -> View:
        deadline = anyio.current_time() + wait_ms / 1000
        skipped = 0
        pause = 0
        while True:
            output = await self._fleet.guest.terminal_read(*terminal, offset=picture.offset, wait_ms=pause)
            skipped += await self._feed(terminal, picture, output)
            behind = picture.offset < output.info.output_total
            settled = pause > 0 and not output.output.data
            found = bool(text) and await to_thread.run_sync(picture.emulator.shows, text)
            left_ms = int((deadline - anyio.current_time()) * 1000)
            resting = not behind and (not output.info.alive or (settled and not text))
            if found or resting or left_ms <= (-_GRACE_MS if behind else 0):
                return View(
                    rows=await to_thread.run_sync(picture.emulator.text),
                    cursor=picture.emulator.cursor,
                    size=picture.emulator.size,
                    title=picture.emulator.title,
                    info=output.info,
                    settled=settled or not output.info.alive,
                    found=found,
                    skipped=skipped,
                )
            pause = 0 if behind else max(min(settle_ms, left_ms), 1)

    async def _feed(self, terminal: tuple[str, str, str], picture: Picture, output: TerminalOutput) -> int:
        """Bring the picture up to date with what was read, and pass over what is too much to draw.

        Returns:
            Bytes that were passed over.
        """
        data, next_offset = output.output.data, output.output.next_offset
        skipped = output.output.offset - picture.offset
        behind = output.info.output_total - next_offset
        if behind > _BACKLOG:
            picture.offset = output.info.output_total - _BACKLOG // 2
            picture.emulator = Emulator(output.info.cols, output.info.rows)
            return picture.offset - (next_offset - len(data)) + skipped
        if skipped > 0:
            picture.emulator = Emulator(output.info.cols, output.info.rows)
        picture.emulator.resize(output.info.cols, output.info.rows)
        answers = b""
        for start in range(0, len(data), _CHUNK):
            answers += await to_thread.run_sync(picture.emulator.feed, data[start : start + _CHUNK])
        picture.offset = next_offset
        # Questions out of the past were asked of another screen, or have been answered already.
        if answers and picture.live and output.info.alive:
            await self._fleet.guest.terminal_input(*terminal, answers)
        picture.live = True
        return skipped


def _key(sandbox: Sandbox, terminal_id: str) -> tuple[str, str, str]:
    return (sandbox.id, sandbox.machine, terminal_id)
