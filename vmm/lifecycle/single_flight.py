"""Work that is done once for all concurrent callers, and finishes even if they give up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog
from anyio.abc import TaskGroup

from ..errors import CasemateError, Unavailable
from ..sandboxes.sandbox import Sandbox

log = structlog.get_logger(__name__)

Work = Callable[[str], Awaitable[Sandbox]]


class SingleFlight:
    """Changes of sandboxes that are under way, which other callers can join.

    Args:
        tasks: Runs them, so that they finish even if the caller goes away.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._flights: dict[tuple[str, str], _Flight] = {}

    async def run(self, what: str, sandbox_id: str, work: Work, *, within_s: float) -> Sandbox:
        """Change a sandbox, or wait for the same change if it is under way.

        Args:
            what: The change, for messages.
            sandbox_id: The sandbox.
            work: Makes the change; called with the sandbox's id.
            within_s: Seconds to wait. The change goes on after that.

        Raises:
            CasemateError: Whatever `work` raises.
            Unavailable: It takes too long.
        """
        flight = self._flights.get((what, sandbox_id))
        if flight is None:
            flight = self._flights[what, sandbox_id] = _Flight()
            self._tasks.start_soon(self._run, what, sandbox_id, work, flight)
        with anyio.move_on_after(within_s):
            await flight.done.wait()
        if flight.sandbox is None:
            raise flight.error or Unavailable(f"Sandbox {sandbox_id}: its {what} takes too long", hint="Try again")
        return flight.sandbox

    async def _run(self, what: str, sandbox_id: str, work: Work, flight: _Flight) -> None:
        try:
            flight.sandbox = await work(sandbox_id)
        except CasemateError as error:
            flight.error = error
        except Exception as error:
            log.exception(f"{what} failed", sandbox=sandbox_id)
            flight.error = Unavailable(f"Sandbox {sandbox_id}: its {what} failed: {type(error).__name__}")
        finally:
            del self._flights[what, sandbox_id]
            flight.done.set()


class _Flight:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.sandbox: Sandbox | None = None
        self.error: CasemateError | None = None
