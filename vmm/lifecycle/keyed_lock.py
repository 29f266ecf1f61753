"""Locks by sandbox, so that one change of a sandbox's state happens at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio


class KeyedLock:
    """Locks by id, which are dropped when nobody holds or awaits them."""

    def __init__(self) -> None:
        self._locks: dict[str, anyio.Lock] = {}
        self._waiting: dict[str, int] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncGenerator[None]:
        """Hold the lock of a key for the length of a block."""
        lock = self._locks.setdefault(key, anyio.Lock())
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key], self._locks[key]
