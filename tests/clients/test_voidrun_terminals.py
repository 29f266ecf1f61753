"""VoidRun's Python client works in terminals of a sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.clients.voidrun_package import PTY, PtySession, calls
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

PATIENCE_MS = PATIENCE_S * 1000


@dataclass(slots=True)
class Screen:
    """What a terminal showed."""

    text: str = ""
    closed: bool = False
    errors: list[Exception] = field(default_factory=list[Exception])

    def shows(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.text

    def add(self, text: str) -> None:
        self.text += text

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def connected(box: Any, session: str | None = None) -> AsyncGenerator[tuple[Any, Screen]]:
    """A connection to a terminal, the sandbox's own session or one that ends with it."""
    screen = Screen()
    pty = await box.pty.connect(
        session_id=session, on_data=screen.add, on_close=screen.close, on_error=screen.errors.append
    )
    try:
        yield pty, screen
    finally:
        await pty.close()
    await until(lambda: screen.closed)
    assert screen.errors == []


@calls(PTY.connect, PtySession.connect, PtySession.send_input, PtySession.close)
async def test_a_shell_of_its_own_shows_what_is_typed_and_ends(async_box: Any) -> None:
    async with connected(async_box) as (pty, screen):
        pty.send_input("echo $((40 + 2))-answer\n")
        await until(screen.shows("42-answer"))
        pty.send_input("exit\n")
        await until(lambda: screen.closed)


@calls(PtySession.run_command)
@pytest.mark.parametrize("attempt", range(5))
async def test_a_command_right_after_the_connection_gives_its_own_output(async_box: Any, attempt: int) -> None:
    async with connected(async_box) as (pty, _):
        for number in (attempt, attempt + 1):
            shown = await pty.run_command(f"echo $(({number} + 1000))-told", timeout=PATIENCE_MS)
            assert f"{number + 1000}-told" in shown


@calls(PTY.create_session, PTY.list, PTY.delete_session, PtySession.resize)
async def test_a_session_outlives_its_connections(async_box: Any) -> None:
    pty = async_box.pty
    before = {each.id for each in pty.list().data.sessions}
    made = pty.create_session(cols=100, rows=40)
    session = made.data.data.session_id
    assert made.data.data.created_at is not None
    async with connected(async_box, session) as (first, shown):
        assert "40 100" in await first.run_command("stty size", timeout=PATIENCE_MS)
        await first.resize(120, 50)  # the shell shows its prompt again, which `run_command` would take for its end
        first.send_input("stty size; word=kept\n")
        await until(shown.shows("50 120\r\n"))
        (listed,) = [each for each in pty.list().data.sessions if each.id not in before]
        assert (listed.id, listed.alive, listed.clients) == (session, True, 1)
    async with connected(async_box, session) as (again, screen):
        await until(screen.shows("50 120"))  # what it showed before
        again.send_input('echo "<$word>"\n')
        await until(screen.shows("<kept>"))
    pty.delete_session(session)
    assert {each.id for each in pty.list().data.sessions} == before


@calls(PTY.create_session_async, PTY.list_async, PTY.delete_session_async)
async def test_sessions_without_blocking(async_box: Any) -> None:
    made = await async_box.pty.create_session_async()
    session = made.data.data.session_id
    async with connected(async_box, session) as (pty, _):
        assert "1001-told" in await pty.run_command("echo $((1 + 1000))-told", timeout=PATIENCE_MS)
    assert session in [each.id for each in (await async_box.pty.list_async()).data.sessions]
    await async_box.pty.delete_session_async(session)
