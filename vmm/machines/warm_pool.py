"""Machines that are ready before anybody asks for one, so that who asks does not wait until it is made.

A machine that waits here has proved itself as every clone does, and is asked once more when it is handed out. The pool
sets no timers: its owner calls `tend` now and then, and what takes time happens in the background, one thing at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import anyio
import structlog
from anyio.abc import TaskGroup

from ..errors import CasemateError
from ..images.catalogue import ImageSet
from ..repeated_warnings import RepeatedWarnings
from .machine import Machine

log = structlog.get_logger(__name__)

_TAKE_S = 1.0
_PING_MS = 500
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a machine is asked for by. After another build of its image a machine is one of another key.

    Attributes:
        images: What it is made from.
        cpu: Virtual CPUs.
        mem: MiB.
    """

    images: ImageSet
    cpu: int
    mem: int


class WarmPool:
    """Machines that wait for somebody to ask.

    Args:
        make: Makes a machine that has proved itself; broken off or failed, it leaves nothing.
        discard: Ends a machine and removes everything of it; may be repeated.
        admit: Raises `HostExhausted` if the host cannot carry one more.
        size: How many wait of each key that is kept; 0 for none.
        max_age_s: How long one may wait before another takes its place.
        clock: Seconds from any moment on, which never go back.
        tasks: Where machines are made and retired.
    """

    def __init__(
        self,
        make: Callable[[Key], Awaitable[Machine]],
        discard: Callable[[Machine], Awaitable[None]],
        admit: Callable[[Key], None],
        *,
        size: int,
        max_age_s: float,
        clock: Callable[[], float],
        tasks: TaskGroup,
    ) -> None:
        self._make = make
        self._discard = discard
        self._admit = admit
        self._size = size
        self._max_age_s = max_age_s
        self._clock = clock
        self._tasks = tasks
        self._kept: tuple[Key, ...] = ()
        self._places: list[_Place] = []
        self._making: Key | None = None
        self._failures: dict[Key, _Failure] = {}
        self._paused_until = clock()
        self._turn = anyio.Lock()
        self._work = anyio.CancelScope()
        self._tending = False
        self._closed = False
        self._warnings = RepeatedWarnings()

    def __len__(self) -> int:
        """How many machines wait."""
        return sum(place.stage is _Stage.READY for place in self._places)

    def keep(self, *keys: Key) -> None:
        """Have machines of these keys ready from now on, and of no others."""
        self._kept = keys
        self._failures = {key: failure for key, failure in self._failures.items() if key in keys}
        self.tend()

    def promised(self) -> int:
        """MiB of all machines that the pool has or makes; one that was taken is the taker's."""
        keys = [place.key for place in self._places]
        return sum(key.mem for key in (keys if self._making is None else [*keys, self._making]))

    async def take(self, key: Key) -> Machine | None:
        """A machine that runs and has answered just now; it is the caller's. None at once if none is ready."""
        try:
            with anyio.move_on_after(_TAKE_S):
                while (place := self._oldest(key)) is not None:
                    if await self._checked(place):
                        return place.machine
            return None
        finally:
            self.tend()

    async def give_way(self) -> bool:
        """End one machine, because somebody needs the host's memory; for a while no other is made.

        Returns:
            Whether there was one, so that a second look at the host is worth it.
        """
        self._paused_until = self._clock() + _LONGEST_PAUSE_S
        place = self._first_ready()
        if place is None and self._making is not None:
            self._work.cancel()
            async with self._turn:
                place = self._first_ready()
            if place is None:
                return True
        if place is None:
            return False
        await self._let_go(place)
        return place not in self._places

    def tend(self) -> None:
        """Replace what died, is too old or was taken, in the background. Call it every few seconds."""
        if not self._tending and not self._closed:
            self._tending = True
            self._tasks.start_soon(self._tend)

    async def aclose(self) -> None:
        """End all machines that nobody took, and break off what is being made."""
        self._closed = True
        self._work.cancel()
        with anyio.CancelScope(shield=True):
            async with self._turn:
                for place in list(self._places):
                    await self._let_go(place)

    async def _tend(self) -> None:
        try:
            async with self._turn:
                with self._work:
                    await self._clear()
                    while not self._closed and (key := self._lacking()) is not None:
                        await self._add(key)
                        await self._clear()
        finally:
            self._work = anyio.CancelScope()
            self._tending = False

    async def _clear(self) -> None:
        for place in list(self._places):
            if place.stage is _Stage.LEAVING or (place.stage is _Stage.READY and self._unfit(place)):
                await self._let_go(place)

    def _lacking(self) -> Key | None:
        now = self._clock()
        if now < self._paused_until:
            return None
        ready = [place.key for place in self._places if place.stage is _Stage.READY]
        for key in self._kept:
            failure = self._failures.get(key)
            if ready.count(key) < self._size and (failure is None or now >= failure.again_at):
                return key
        return None

    async def _add(self, key: Key) -> None:
        try:
            self._admit(key)
            self._making = key
            machine = await self._make(key)
        except Exception as error:
            self._failed(key, error)
        else:
            self._failures.pop(key, None)
            self._places.append(_Place(key, machine, self._clock()))
        finally:
            self._making = None

    def _failed(self, key: Key, error: Exception) -> None:
        earlier = self._failures.get(key)
        pause = _FIRST_PAUSE_S if earlier is None else min(2 * earlier.pause_s, _LONGEST_PAUSE_S)
        self._failures[key] = _Failure(pause, self._clock() + pause)
        if earlier is None:
            foreseen = isinstance(error, CasemateError | OSError)
            log.warning(
                "no machine made ahead",
                image=key.images.name,
                cpu=key.cpu,
                mem=key.mem,
                error=str(error),
                exc_info=None if foreseen else error,
            )

    def _first_ready(self) -> _Place | None:
        return next((place for place in self._places if place.stage is _Stage.READY), None)

    def _oldest(self, key: Key) -> _Place | None:
        for place in self._places:
            if place.stage is _Stage.READY and place.key == key and not self._unfit(place):
                return place
        return None

    def _unfit(self, place: _Place) -> bool:
        too_old = self._clock() - place.since >= self._max_age_s
        return place.key not in self._kept or too_old or not place.machine.running.process.alive()

    async def _checked(self, place: _Place) -> bool:
        place.stage = _Stage.ASKED
        try:
            await place.machine.link.ping(timeout_ms=_PING_MS)
            # It may have been let go of meanwhile: then its answer came too late.
            taken = place.stage is _Stage.ASKED
        except CasemateError as error:
            log.warning("waiting machine did not answer", directory=place.machine.directory.name, error=error.message)
            return False
        else:
            if taken:
                self._places.remove(place)
            return taken
        finally:
            place.stage = _Stage.LEAVING

    async def _let_go(self, place: _Place) -> None:
        place.stage = _Stage.LEAVING
        try:
            with anyio.CancelScope(shield=True):
                async with place.end:
                    if place in self._places:
                        await self._discard(place.machine)
                        self._places.remove(place)
        except Exception as error:
            self._warnings.raised(error, "waiting machine not removed yet", directory=place.machine.directory.name)


class _Stage(Enum):
    READY = auto()
    ASKED = auto()
    LEAVING = auto()


@dataclass(slots=True, eq=False)
class _Place:
    key: Key
    machine: Machine
    since: float
    stage: _Stage = _Stage.READY
    end: anyio.Lock = field(default_factory=anyio.Lock)


@dataclass(frozen=True, slots=True)
class _Failure:
    pause_s: float
    again_at: float
