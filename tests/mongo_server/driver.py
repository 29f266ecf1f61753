"""Mends the driver where the tests look closer than it does."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest
from pymongo import pool_shared


def close_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver close the socket with which it connects when it is closed itself.

    It leaves it to the garbage collector, whose warning fails whatever test runs next.
    """
    connect: Any = pool_shared._async_create_connection

    async def connected(address: object, options: object) -> socket.socket:
        attempt: asyncio.Task[socket.socket] = asyncio.ensure_future(connect(address, options))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            with suppress(OSError):
                (await attempt).close()
            raise

    monkeypatch.setattr(pool_shared, "_async_create_connection", connected)
