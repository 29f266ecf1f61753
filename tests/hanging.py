"""Ends a test that hangs so that its neighbours do not notice: it is cancelled, and cleans up as any cancelled work.

The limit of pytest-timeout breaks into the event loop wherever that is; what was open then fails the tests after it.
It remains for what does not run in the loop.

A whole run that is told to end (SIGTERM, as from `timeout`) cleans up, too, as after Ctrl-C: its machines are processes
that would outlive it.
"""

from __future__ import annotations

import functools
import inspect
import signal
import traceback
from collections.abc import Awaitable, Callable, Generator

import anyio
import pytest

_SHARE = 0.8
"""Of the limit of pytest-timeout: the rest is for cleaning up."""

Test = Callable[..., Awaitable[None]]


def pytest_configure() -> None:
    """Treat SIGTERM as Ctrl-C; programs that the tests start do not inherit that."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let an asynchronous test end before pytest-timeout ends it."""
    limit_s = _limit_s(pyfuncitem)
    if limit_s and inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _limited(pyfuncitem.obj, _SHARE * limit_s)
    return (yield)


def _limit_s(item: pytest.Function) -> float:
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        return float(marker.args[0])
    return float(item.config.getoption("timeout", None) or item.config.getini("timeout") or 0)


def _limited(test: Test, seconds: float) -> Test:
    @functools.wraps(test)
    async def limited(*arguments: object, **named: object) -> None:
        with anyio.CancelScope() as scope:
            scope.deadline = anyio.current_time() + seconds
            try:
                await test(*arguments, **named)
            except anyio.get_cancelled_exc_class():
                traceback.print_exc()  # where it stood
                raise
        if scope.cancelled_caught:
            pytest.fail(f"It hung: no end within {seconds:g} s", pytrace=False)

    return limited
