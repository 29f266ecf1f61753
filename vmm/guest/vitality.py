"""Whether a guest is alive: while a call takes too long, the guest is pinged on another connection.

A fixed deadline is wrong in two ways: it cancels slow answers on a busy host, and it makes every call to a guest that
died of a fork bomb wait for all of it. So a call that exceeds its own time continues while the guest sends anything at
all, up to a limit, and ends soon after the guest has fallen silent.

Silence is counted in beats, not in seconds: a server that gets no CPU time for a while receives nothing either, and
must not blame the guest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio

from vmm.errors import CasemateError, LinkTimeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """How long calls wait beyond their own time. With these values, a call to a dead guest ends 4 s after that.

    Attributes:
        ask_s: Seconds after which the guest is pinged.
        beat_s: Seconds between further pings.
        beats: Beats without any sign after which the guest counts as silent.
        living_s: Seconds that a call may take while the guest is alive; an emulated one is thirty times slower.
    """

    ask_s: float = 1.0
    beat_s: float = 1.0
    beats: int = 3
    living_s: float = 30.0

    @property
    def silence_s(self) -> float:
        """Seconds until missing answers count as silence."""
        return self.beats * self.beat_s


GRACE = Grace()


class Vitality:
    """What is known about whether one guest is alive. Shared by all calls of a link.

    Attributes:
        grace: How long calls wait.

    Args:
        ping: Pings the agent, on a separate connection; the frames of its answer count like any other sign of life.
        grace: How long calls wait.
    """

    def __init__(self, ping: Callable[[], Awaitable[object]], grace: Grace = GRACE) -> None:
        self.grace = grace
        self._ping = ping
        self._signs = 0
        self._holds = 0
        self._asked: float | None = None
        self._since: float | None = None
        self._silent = False

    @property
    def silent_s(self) -> float:
        """For how many seconds the guest has not answered; 0 unless it counts as silent."""
        return max(anyio.current_time() - self._since, 0.001) if self._silent and self._since is not None else 0.0

    def heard(self) -> None:
        """Record a sign of life: anything that the agent has sent."""
        self._signs += 1
        self._since = None
        self._silent = False

    @contextmanager
    def held(self) -> Generator[None]:
        """Ignore silence during a block, because the host pauses the guest."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def patience_s(self, own_s: float) -> float:
        """Return how long a call waits before the guest is pinged; 0 if it is already silent."""
        return 0.0 if self._silent else own_s + self.grace.ask_s

    @asynccontextmanager
    async def watch(
        self, name: str, own_s: float = 0.0, *, more_s: float | None = None, waited_s: float = 0.0
    ) -> AsyncGenerator[None]:
        """Cancel the block when the guest has fallen silent, or when the block takes too long in total.

        Args:
            name: The call, for the error.
            own_s: How long it is expected to take.
            more_s: How much longer it may take while the guest is alive; the grace's `living_s` if None.
            waited_s: How much of this time has already passed.

        Raises:
            LinkTimeout: It was cancelled.
        """
        begun = anyio.current_time() - waited_s
        bound_s = own_s + (self.grace.living_s if more_s is None else more_s)
        before = self._signs
        silent = anyio.Event()
        failure: Exception | None = None
        done = False
        async with anyio.create_task_group() as tasks:
            tasks.cancel_scope.deadline = begun + bound_s
            tasks.start_soon(self._listen, max(self.patience_s(own_s) - waited_s, 0.0), silent, tasks.cancel_scope)
            try:
                yield
                done = True
            except Exception as error:  # raised below, because a task group would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not done:
            how = (
                " and gives no sign of life"
                if silent.is_set()
                else ", though it is alive"
                if self._signs != before
                else ""
            )
            raise LinkTimeout(f"The guest did not answer {name!r} within {anyio.current_time() - begun:.3g} s{how}")

    async def answers(self) -> bool:
        """Ping the guest, and wait until it answers or counts as silent."""
        before = self._signs
        async with anyio.create_task_group() as tasks:
            for _ in range(self.grace.beats):
                tasks.start_soon(self._ask, tasks.cancel_scope)
                await anyio.sleep(self.grace.beat_s)
            tasks.cancel_scope.cancel()
        if self._signs == before and not self._holds:
            self._fall_silent()
        return not self._silent

    async def _listen(self, patience_s: float, silent: anyio.Event, scope: anyio.CancelScope) -> None:
        await anyio.sleep(patience_s)
        unheard = 0
        async with anyio.create_task_group() as tasks:
            while unheard < self.grace.beats:
                before = self._signs
                if self._is_ping_due():
                    tasks.start_soon(self._ask)
                await anyio.sleep(self.grace.beat_s)
                unheard = 0 if self._signs != before or self._holds else unheard + 1
            self._fall_silent()
            silent.set()
            scope.cancel()

    def _fall_silent(self) -> None:
        self._silent = True
        if self._since is None:
            self._since = anyio.current_time()

    def _is_ping_due(self) -> bool:
        """Tell whether a ping is due: one per beat is enough, however many calls wait."""
        now = anyio.current_time()
        if self._holds or (self._asked is not None and now - self._asked < self.grace.beat_s / 2):
            return False
        self._asked = now
        return True

    async def _ask(self, heard: anyio.CancelScope | None = None) -> None:
        if self._since is None:
            self._since = anyio.current_time()
        try:
            with anyio.move_on_after(self.grace.silence_s):
                await self._ping()
                if heard is not None:
                    heard.cancel()
        except CasemateError:
            return  # a refusal counts as a sign of life, like every answer; a broken connection does not
