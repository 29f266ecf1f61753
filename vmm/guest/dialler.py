"""Opens new connections to a guest's agent, even if many of them get lost.

No request is sent before the agent's greeting and the host's proof that it knows the secret. So if no greeting
arrives on a connection, another is opened in parallel, and the first to complete the handshake is used.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from vmm.errors import LinkError, LinkTimeout

from .connection import Connection, Dial, HungUp

_PARALLEL_S = 0.3
"""Seconds that a handshake may take before another connection is opened in parallel; doubled each time."""
_USUAL = 2.0
"""The same, in multiples of the last handshake's time, if that is longer: the guest is slow."""
_HUNG_UP_S = (0.01, 0.05, 0.2)
"""Pauses in seconds before dialling again after an agent hung up without answering."""
_SILENT_S = 5.0
"""Seconds that an agent that has answered before may be silent."""
_UNHEARD_S = 30.0
"""Seconds that an agent that has not answered yet may be silent: its machine just started, maybe on a busy host."""
_SLOW = 10.0
"""The minimum of these, in multiples of the last handshake's time."""


class Dialler:
    """Opens connections. Many tasks may use it at once.

    Args:
        dial: Opens a new connection to the agent.
        heard: Called for each frame that arrives, as a sign of life.
    """

    def __init__(self, dial: Dial, heard: Callable[[], None]) -> None:
        self._dial = dial
        self._on_frame = heard
        self._heard = -math.inf
        self._took_s = 0.0

    def forget(self) -> None:
        """Forget that the agent has answered, because its machine is or was paused."""
        self._heard = -math.inf

    def patience(self, since: float) -> float:
        """Return until when to wait for a connection; each sign of life makes it later.

        Args:
            since: When the wait began. Both in seconds of the event loop's clock.
        """
        silence_s = _UNHEARD_S if self._heard == -math.inf else _SILENT_S
        return max(since, self._heard) + max(silence_s, _SLOW * self._took_s)

    async def connection(self, secret: bytes, generation: int, since: float) -> Connection:
        """Open a connection and complete the handshake.

        Args:
            secret: The secret that the agent and the host share.
            generation: The number of that secret.
            since: When the wait for it began, in seconds of the event loop's clock.

        Raises:
            LinkError: Nobody answers, or the other side does not know the secret; then it learns nothing useful.
            LinkTimeout: Nobody answers in time.
        """
        race = _Race(lambda: Connection.open(self._dial, secret, generation, self._hear))
        try:
            async with anyio.create_task_group() as dials:
                await self._run(race, dials, since)
                dials.cancel_scope.cancel()
        except BaseException:
            if race.won is not None:
                await race.won.aclose()
            raise
        if race.won is None:
            raise race.failure or self._silence(since)
        self._took_s = race.took_s
        return race.won

    async def wait(self, event: anyio.Event, since: float) -> None:
        """Wait for an event as long as `patience` allows.

        Raises:
            LinkTimeout: It did not happen in time.
        """
        while not event.is_set():
            if anyio.current_time() >= self.patience(since):
                raise self._silence(since)
            with anyio.CancelScope(deadline=self.patience(since)):
                await event.wait()

    def _silence(self, since: float) -> LinkTimeout:
        waited_s = anyio.current_time() - since
        return LinkTimeout(f"The guest's agent has not answered for {waited_s:.0f} s; the request was not sent")

    def _hear(self) -> None:
        self._heard = anyio.current_time()
        self._on_frame()

    async def _run(self, race: _Race, dials: TaskGroup, since: float) -> None:
        """Dial until a connection is ready, or none is possible."""
        began = anyio.current_time()
        pause_s = max(_PARALLEL_S, _USUAL * self._took_s)
        while anyio.current_time() < self.patience(since):
            race.running += 1
            dials.start_soon(race.run)
            next_dial = anyio.current_time() + pause_s
            pause_s *= 2
            while race.running and not race.decided and anyio.current_time() < min(next_dial, self.patience(since)):
                await race.news(min(next_dial, self.patience(since)))
            if race.decided:
                return
            if not race.running:
                if race.hung_up > len(_HUNG_UP_S) and self._heard < began:
                    race.failure = LinkError("The guest closes every connection without answering")
                    return
                await anyio.sleep(_HUNG_UP_S[min(race.hung_up, len(_HUNG_UP_S)) - 1])


class _Race:
    """Concurrent dials; the first to complete the handshake wins.

    Args:
        dial: Opens a connection.

    Attributes:
        won: The winner.
        took_s: How long its handshake took.
        failure: Why no dial can win.
        running: How many dials have not ended.
        hung_up: How many connections the agent closed without answering, which may be temporary.
    """

    def __init__(self, dial: Callable[[], Awaitable[Connection]]) -> None:
        self.won: Connection | None = None
        self.failure: LinkError | None = None
        self.took_s = 0.0
        self.running = 0
        self.hung_up = 0
        self._dial = dial
        self._news = anyio.Event()

    @property
    def decided(self) -> bool:
        return self.won is not None or self.failure is not None

    async def run(self) -> None:
        """Dial once; `running` already counts it."""
        began = anyio.current_time()
        try:
            connection = await self._dial()
        except HungUp:
            self.hung_up += 1
        except LinkError as error:
            self.failure = error
        else:
            if self.won is None:
                self.won, self.took_s = connection, anyio.current_time() - began
            else:
                await connection.aclose()
        finally:
            self.running -= 1
            self._news.set()

    async def news(self, until: float) -> None:
        """Wait until a dial ends."""
        with anyio.CancelScope(deadline=until):
            await self._news.wait()
            self._news = anyio.Event()
