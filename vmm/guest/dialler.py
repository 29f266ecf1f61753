"""New connections to a guest's agent, however many of them are lost on the way.

Until the agent has greeted and the host has shown that it knows the secret, nothing was asked of it. So a connection on
which no greeting comes is dialled again beside it, and the first that is through the handshake is taken.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from vmm.errors import LinkError, LinkTimeout

from .connection import Connection, Dial, HungUp

_BESIDE_S = 0.3
"""How long a handshake may take before the agent is dialled once more beside it; doubled each time."""
_USUAL = 2.0
"""The same, in handshakes that take as long as the last one, if that is longer: the guest is slow."""
_HUNG_UP_S = (0.01, 0.05, 0.2)
"""The pauses after which an agent that hung up before it said a word is dialled again."""
_SILENT_S = 5.0
"""How long an agent that was heard may be silent."""
_UNHEARD_S = 30.0
"""How long one may be that was not heard yet: its machine has only begun to run, on a busy host perhaps."""
_SLOW = 10.0
"""How long it may be at least, in handshakes that take as long as the last one."""


class Dialler:
    """Makes connections. For many tasks at once.

    Args:
        dial: Makes a fresh connection to the agent.
        heard: Told of each frame that comes, as a sign of life.
    """

    def __init__(self, dial: Dial, heard: Callable[[], None]) -> None:
        self._dial = dial
        self._tell = heard
        self._heard = -math.inf
        self._took_s = 0.0

    def forget(self) -> None:
        """Forget that it was heard: its machine stands still from now on, or did."""
        self._heard = -math.inf

    def patience(self, since: float) -> float:
        """Until when to wait for a connection; each sign of life makes it later.

        Args:
            since: When the waiting began. Both in seconds of the event loop's clock.
        """
        silence_s = _UNHEARD_S if self._heard == -math.inf else _SILENT_S
        return max(since, self._heard) + max(silence_s, _SLOW * self._took_s)

    async def connection(self, secret: bytes, generation: int, since: float) -> Connection:
        """A connection that went through the handshake.

        Args:
            secret: What the agent and the host know.
            generation: Which of the link's secrets that is.
            since: When the waiting for it began, in seconds of the event loop's clock.

        Raises:
            LinkError: Nobody answers, or not an agent that knows the secret. It learns nothing of use.
            LinkTimeout: Nobody says a word.
        """
        race = _Race(lambda: Connection.open(self._dial, secret, generation, self._hear))
        try:
            async with anyio.create_task_group() as dials:
                await self._hold(race, dials, since)
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
        """Wait for an event for as long as there is patience.

        Raises:
            LinkTimeout: There is none left.
        """
        while not event.is_set():
            if anyio.current_time() >= self.patience(since):
                raise self._silence(since)
            with anyio.CancelScope(deadline=self.patience(since)):
                await event.wait()

    def _silence(self, since: float) -> LinkTimeout:
        waited_s = anyio.current_time() - since
        return LinkTimeout(f"The guest's agent has not said a word for {waited_s:.0f} s; it was not told what to do")

    def _hear(self) -> None:
        self._heard = anyio.current_time()
        self._tell()

    async def _hold(self, race: _Race, dials: TaskGroup, since: float) -> None:
        """Dial until there is a winner, or no hope."""
        began = anyio.current_time()
        pause_s = max(_BESIDE_S, _USUAL * self._took_s)
        while anyio.current_time() < self.patience(since):
            race.running += 1
            dials.start_soon(race.run)
            beside = anyio.current_time() + pause_s
            pause_s *= 2
            while race.running and not race.decided and anyio.current_time() < min(beside, self.patience(since)):
                await race.news(min(beside, self.patience(since)))
            if race.decided:
                return
            if not race.running:
                if race.hung_up > len(_HUNG_UP_S) and self._heard < began:
                    race.failure = LinkError("The guest closes every connection before it says a word")
                    return
                await anyio.sleep(_HUNG_UP_S[min(race.hung_up, len(_HUNG_UP_S)) - 1])


class _Race:
    """Dials beside each other, of which the first to be through the handshake wins.

    Args:
        dial: Makes a connection.

    Attributes:
        won: The winner.
        took_s: How long that took.
        failure: Why there will be none.
        running: How many have not ended.
        hung_up: On how many the agent hung up before it said a word, so that nothing is known of it.
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
        """Dial once; `running` counts it already."""
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
        """Wait for the end of a dial."""
        with anyio.CancelScope(deadline=until):
            await self._news.wait()
            self._news = anyio.Event()
