"""Events that a client has not read yet: all of them, or an overflow in their place."""

from __future__ import annotations

import anyio
import pytest

from vmm.calls.event_buffer import MOST_BYTES, EventBuffer
from vmm.errors import LinkError
from vmm.guest.watches import FileEvent

pytestmark = pytest.mark.anyio

TOP = "/root"


def created(name: str) -> FileEvent:
    return FileEvent(type="created", path=f"{TOP}/{name}", time_ms=1)


async def test_events_are_taken_in_their_order_and_once() -> None:
    buffer = EventBuffer(TOP)
    buffer.put([created("a"), created("b")])
    buffer.put([created("c")])
    assert [event.path for event in await buffer.take()] == ["/root/a", "/root/b", "/root/c"]
    buffer.put([created("d")])
    assert [event.path for event in await buffer.take()] == ["/root/d"]


async def test_who_takes_waits_for_an_event_or_the_end() -> None:
    buffer = EventBuffer(TOP)
    taken: list[list[FileEvent]] = []

    async def take() -> None:
        taken.append(await buffer.take())

    for step in (lambda: buffer.put([created("a")]), lambda: buffer.end("over")):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            step()
    assert taken == [[created("a")], []]


async def test_what_is_too_much_gives_way_to_an_overflow() -> None:
    buffer = EventBuffer(TOP)
    for _ in range(MOST_BYTES // 4000 + 10):
        buffer.put([created("x" * 4000)])
    buffer.put([created("last")])
    lost, *rest = await buffer.take()
    assert (lost.type, lost.path) == ("overflow", TOP)
    assert "too slowly" in lost.reason
    assert rest[-1] == created("last")
    assert len(rest) < MOST_BYTES // 4000 // 2


async def test_one_piece_that_is_too_much_gives_way_too() -> None:
    buffer = EventBuffer(TOP)
    buffer.put([created("x" * 4000)] * (MOST_BYTES // 4000 + 1))
    (lost,) = await buffer.take()
    assert lost.type == "overflow"


async def test_what_came_before_the_end_is_taken_first_and_nothing_comes_after_it() -> None:
    buffer = EventBuffer(TOP)
    buffer.put([created("a")])
    buffer.fail(LinkError("gone"))
    buffer.end("too late")
    buffer.put([created("b")])
    assert await buffer.take() == [created("a")]
    assert await buffer.take() == []
    assert (buffer.ended, str(buffer.failure)) == ("gone", "gone")
