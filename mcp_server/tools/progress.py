"""Progress messages during long calls, so that clients do not time out; they never delay the call."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp.server.mcpserver import Context

T = TypeVar("T")

_FIRST_S = 5
_EVERY_S = 10
_SEND_S = 1


class ProgressReporter:
    """Reports the progress of one call, if its client asked for it."""

    def __init__(self, ctx: Context[Any, Any]) -> None:
        self._ctx = ctx
        self._step = 0

    async def tell(self, message: str) -> None:
        """Send a progress message; it is dropped if the client does not read it in time."""
        self._step += 1
        with anyio.move_on_after(_SEND_S), suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._ctx.report_progress(self._step, None, message)

    async def during(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        """Await a call, and report progress regularly while it runs.

        Raises:
            Exception: Whatever the call raises, unwrapped.
        """
        results: list[T] = []
        failures: list[Exception] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._report, what)
            try:
                results.append(await call())
            except Exception as failure:
                failures.append(failure)
            group.cancel_scope.cancel()
        if failures:
            raise failures[0]
        return results[0]

    async def _report(self, what: str) -> None:
        started = anyio.current_time()
        await anyio.sleep(_FIRST_S)
        while True:
            await self.tell(f"{what}: {anyio.current_time() - started:.0f} s")
            await anyio.sleep(_EVERY_S)
