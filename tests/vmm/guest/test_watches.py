"""Watching files through the link, with the agent as a process of this host."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.vmm.guest.agents import Agent
from tests.waiting import PATIENCE_S, until
from vmm.agent import frames
from vmm.agent.watches import MOST
from vmm.errors import GuestError, GuestFileMissing, InvalidInput, LinkError
from vmm.guest.link import GuestLink
from vmm.guest.watches import FileEvent, FileEvents

pytestmark = pytest.mark.anyio


async def seen(events: FileEvents, kind: str, path: str) -> FileEvent:
    """Read events up to one."""
    with anyio.fail_after(PATIENCE_S):
        async for some in events:
            for event in some:
                if (event.type, event.path) == (kind, path):
                    return event
    raise AssertionError(f"{path} was not {kind}")


async def test_events_arrive_while_files_change(link: GuestLink, place: str) -> None:
    async with link.watch(place, recursive=True, ignore_hidden=True) as events:
        await link.write_file(f"{place}/deep/er/file", b"content")
        made = await seen(events, "created", f"{place}/deep/er/file")
        assert (made.size, made.directory) == (7, False)
        await link.move(f"{place}/deep", f"{place}/moved")
        assert (await seen(events, "renamed", f"{place}/moved")).old_path == f"{place}/deep"
        await link.delete(f"{place}/moved", recursive=True)
        assert (await seen(events, "deleted", f"{place}/moved")).directory


async def test_the_end_of_the_directory_ends_the_events(link: GuestLink, place: str) -> None:
    async with link.watch(place, recursive=False, ignore_hidden=True) as events:
        await link.delete(place)
        with anyio.fail_after(PATIENCE_S):
            (((last,),)) = [some async for some in events]
        assert (last.type, last.path) == ("deleted", place)
        assert events.reason == "it was deleted"


async def test_many_files_at_once_are_all_told(link: GuestLink, place: str) -> None:
    async with link.watch(place, recursive=True, ignore_hidden=True) as events:
        told: set[str] = set()
        for number in range(2000):
            Path(place, f"{number}").touch()
        with anyio.fail_after(PATIENCE_S):
            async for some in events:
                told |= {event.path for event in some if event.type == "created"}
                if len(told) == 2000:
                    break


async def test_a_watch_ends_with_its_connection(link: GuestLink, place: str) -> None:
    for _ in range(2):
        async with AsyncExitStack() as stack:
            for _ in range(MOST):
                await stack.enter_async_context(link.watch(place, recursive=False, ignore_hidden=True))
            with pytest.raises(GuestError, match=f"has {MOST} watches already"):
                async with link.watch(place, recursive=False, ignore_hidden=True):
                    pass

        async def has_room() -> bool:
            try:
                async with link.watch(place, recursive=False, ignore_hidden=True):
                    return True
            except GuestError:
                return False

        await until(has_room)


async def test_what_is_not_there_cannot_be_watched(link: GuestLink, place: str) -> None:
    for path, error in ((f"{place}/nothing", GuestFileMissing), ("relative", InvalidInput), ("/\0", InvalidInput)):
        with pytest.raises(error):
            async with link.watch(path, recursive=True, ignore_hidden=True):
                pass


async def test_a_client_that_does_not_read_blocks_nobody(guest: Agent, link: GuestLink, place: str) -> None:
    name = "n" * 200
    async with link.watch(place, recursive=False, ignore_hidden=True) as events:
        before = guest.resident()
        for turn in range(20):
            for number in range(2000):
                path = Path(place, f"{name}{turn}-{number}")
                path.touch()
                path.unlink()
            await link.ping(timeout_ms=PATIENCE_S * 1000)
        assert guest.resident() - before < 32 * 1024 * 1024
        Path(place, "last").touch()
        await seen(events, "created", f"{place}/last")


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"type":"created","path":"/a"}',
        b'{"type":"exploded","path":"/a","time_ms":1}',
        b'{"type":["created"],"path":"/a","time_ms":1}',
        b'{"type":"created","path":5,"time_ms":1}',
        b'{"type":"created","path":"/a","time_ms":1.5}',
        b'{"type":"created","path":"/a","time_ms":true}',
        b'{"type":"created","path":"/a","time_ms":1,"size":-1}',
        b'{"type":"created","path":"/a","time_ms":1,"size":99999999999999999999}',
        b'{"type":"created","path":"/a","time_ms":99999999999999999999}',
        b'{"type":"renamed","path":"/a","old_path":{},"time_ms":1}',
        rb'{"type":"created","path":"/\ud800","time_ms":1}',
        b"[" * 100_000,
    ],
)
async def test_events_that_are_none_break_the_connection(line: bytes) -> None:
    class Answer:
        async def receive(self) -> tuple[int, bytes]:
            return frames.DATA, line

    answer: Any = Answer()
    with pytest.raises(LinkError, match="damaged"):
        await anext(FileEvents(answer))


async def test_other_frames_break_the_connection_and_signs_of_life_do_not() -> None:
    class Answer:
        def __init__(self) -> None:
            self.frames = [(frames.DATA, b""), (frames.STDOUT, b"x" * 9)]

        async def receive(self) -> tuple[int, bytes]:
            return self.frames.pop(0)

    answer: Any = Answer()
    with pytest.raises(LinkError, match="instead of events"):
        await anext(FileEvents(answer))
