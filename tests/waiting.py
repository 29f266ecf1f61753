"""How long a test waits for what must come: so long that only what never comes is missed, on however slow a machine.

No test passes or fails by how long something takes; where an order matters, it waits for the event before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable

import anyio

PATIENCE_S = 300
"""Seconds. Something that waits for less would measure the machine and what else runs on it."""

_LOOK_S = 0.02


async def until(condition: Callable[[], object | Awaitable[object]], *, look_s: float = _LOOK_S) -> None:
    """Wait until a condition holds.

    Args:
        condition: Looks; what it gives is true once it holds.
        look_s: Seconds between looks.

    Raises:
        TimeoutError: It never did.
    """
    with anyio.fail_after(PATIENCE_S):
        while True:
            found = condition()
            if await found if isawaitable(found) else found:
                return
            await anyio.sleep(look_s)
