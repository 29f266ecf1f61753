"""Directories of any size, listed as a stream."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from tests.vmm.guest.agents import Agent
from vmm.agent import frames, listing
from vmm.agent.channel import Channel, ClosedError
from vmm.errors import GuestFileMissing, GuestFileRefused, InvalidInput, LinkError
from vmm.guest import files
from vmm.guest.link import GuestLink

pytestmark = pytest.mark.anyio

ENTRY = {"path": "/d/x", "kind": "file", "size": 1, "mode": 33188, "uid": 0, "gid": 0, "mtime_ms": 0, "target": ""}


async def listed(link: GuestLink, path: str, **options: int) -> tuple[list[str], bool]:
    """The names in a directory, and whether there are more."""
    async with link.open_list(path, **options) as pages:
        names = [Path(entry.path).name async for page in pages for entry in page]
        return names, pages.truncated


async def test_every_entry_is_there_in_order_and_described(link: GuestLink, place: str) -> None:
    for name in ("c", "a", "ä"):
        Path(place, name).touch()
    Path(place, "b").symlink_to("a")
    async with link.open_list(f"{place}/") as pages:
        found = [entry async for page in pages for entry in page]
    assert [entry.path for entry in found] == [f"{place}/{name}" for name in ("a", "b", "c", "ä")]
    assert (found[1].kind, found[1].target) == ("symlink", "a")
    assert await listed(link, place, limit=4) == (["a", "b", "c", "ä"], False)
    assert await listed(link, place, limit=2) == (["a", "b"], True)
    empty = Path(place, "empty")
    empty.mkdir()
    assert await listed(link, str(empty)) == ([], False)
    assert "etc" in (await listed(link, "/"))[0]


async def test_a_large_directory_comes_whole(guest: Agent, link: GuestLink, place: str) -> None:
    for number in range(30_000):
        Path(place, f"{number:05}").symlink_to("x" * 50)
    await link.ping()
    before = guest.resident()
    names, truncated = await listed(link, place)
    assert (names, truncated) == ([f"{number:05}" for number in range(30_000)], False)
    assert guest.resident() - before < 8 * 2**20


async def test_what_cannot_be_listed_is_refused_before_anything_is_sent(link: GuestLink, place: str) -> None:
    Path(place, "file").touch()
    for path, error in ((f"{place}/file", GuestFileRefused), (f"{place}/no", GuestFileMissing), ("x", InvalidInput)):
        with pytest.raises(error):
            async with link.open_list(path):
                pass
    with pytest.raises(InvalidInput, match="limit"):
        await listed(link, place, limit=0)


async def test_a_listing_that_nobody_waits_for_ends_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_SORTED", 10)
    for number in range(100):
        (tmp_path / str(number)).touch()
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        before = sorted(Path("/proc/self/fd").iterdir())
        with pytest.raises(ClosedError):
            listing.stream_listing(Channel(theirs), os.fsencode(tmp_path), 10_000)
        assert sorted(Path("/proc/self/fd").iterdir()) == before


async def test_beyond_a_size_entries_come_in_the_directorys_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        (tmp_path / str(number)).touch()
    own = [entry.name for entry in os.scandir(tmp_path)]
    assert own != sorted(own)
    for most, order in ((499, own), (500, sorted(own))):
        monkeypatch.setattr(listing, "MAX_SORTED", most)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
            listing.stream_listing(Channel(theirs), os.fsencode(tmp_path), 10_000)
            host = Channel(ours)
            names: list[str] = []
            while (frame := host.receive())[0] != frames.RESULT:
                if frame[0] == frames.DATA:
                    names += [Path(entry["path"]).name for entry in json.loads(frame[1])]
        assert names == order


@asynccontextmanager
async def answering(*answer: bytes) -> AsyncGenerator[GuestLink]:
    """A link to a guest that answers every request with the same frames."""
    secret = bytes(32)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.send(frames.pack(frames.HELLO, bytes((frames.VERSION,)) + bytes(frames.NONCE)))
            auth = b""
            while len(auth) < frames.HEADER.size + frames.NONCE + frames.PROOF_SIZE:
                auth += await stream.receive()
            nonce = auth[frames.HEADER.size :][: frames.NONCE]
            await stream.send(frames.pack(frames.PROOF, frames.agent_proof(secret, bytes(frames.NONCE), nonce)))
            await stream.receive()
            try:
                await stream.send(b"".join(answer))
                await anyio.sleep_forever()
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return  # The host has seen enough.

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        link = GuestLink(partial(anyio.connect_tcp, "127.0.0.1", port), secret)
        yield link
        await link.aclose()
        tasks.cancel_scope.cancel()


def page(entries: Sequence[object]) -> bytes:
    return frames.pack(frames.DATA, json.dumps(entries).encode())


HEAD = frames.pack_json(frames.HEAD, ENTRY)


async def test_an_agent_of_an_earlier_release_answers_at_once() -> None:
    for count, truncated in ((2, True), (0, False)):
        value = {"entries": [ENTRY] * count, "truncated": truncated}
        async with answering(frames.pack_json(frames.RESULT, value)) as link:
            assert await listed(link, "/d") == (["x"] * count, truncated)


async def test_a_guest_that_sends_more_than_was_asked_for_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(HEAD, page([ENTRY] * 100), page([ENTRY] * 100)) as link:
        assert await listed(link, "/d", limit=150) == (["x"] * 150, True)
    async with answering(HEAD, *[page([ENTRY])] * 100) as link:
        monkeypatch.setattr(files, "_MAX_LISTING", 5 * len(page([ENTRY])))
        names, truncated = await listed(link, "/d")
    assert (names, truncated) == (["x"] * 5, True)


@pytest.mark.parametrize(
    "answer",
    [
        [frames.pack(frames.DATA, b"")],
        [HEAD, frames.pack(frames.DATA, b"no json")],
        [HEAD, frames.pack(frames.DATA, b"[" * 100_000)],
        [HEAD, page({"a": "b"})],  # type: ignore[arg-type]
        [HEAD, page([1])],
        [HEAD, page([{"path": "x"}])],
        [HEAD, frames.pack(frames.STDOUT, bytes(20))],
        [frames.pack_json(frames.RESULT, {"entries": "x"})],
        [frames.pack_json(frames.RESULT, {"entries": 5})],
    ],
)
async def test_a_guest_that_sends_something_else_is_refused(answer: list[Any]) -> None:
    async with answering(*answer) as link:
        with pytest.raises(LinkError):
            await listed(link, "/d")
