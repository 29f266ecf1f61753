"""Watching files in virtual machines: what programs do, while the machine sleeps, is saved and forked."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.mcp_server.rest.conftest import Rest, data_of, rest_server
from tests.waiting import PATIENCE_S, until
from vmm.fleet import Fleet

pytestmark = [pytest.mark.anyio, pytest.mark.vm]


@dataclass(frozen=True, slots=True)
class Box:
    """A sandbox over REST."""

    rest: Rest
    http: httpx.AsyncClient
    base: str

    async def run(self, command: str) -> None:
        ran = data_of(await self.http.post(f"{self.base}/exec", json={"command": command}))
        assert ran["exitCode"] == 0, ran

    async def status(self) -> str:
        return data_of(await self.http.get(self.base))["status"]

    @asynccontextmanager
    async def watched(self, path: str) -> AsyncGenerator[ClientConnection]:
        wish = {"path": path, "recursive": True}
        session = data_of(await self.http.post(f"{self.base}/files/watch", json=wish))["sessionId"]
        url = f"ws{self.rest.url.removeprefix('http')}{self.base}/files/watch/{session}/stream"
        async with connect(url, additional_headers={"x-who": "alice"}, proxy=None) as socket:
            yield socket


@pytest.fixture
async def box(fleet: Fleet) -> AsyncGenerator[Box]:
    """A sandbox that sleeps when it is told to."""
    async with rest_server(fleet) as rest, rest.http("alice") as http:
        http.timeout = PATIENCE_S
        fields = {"name": "watched", "image": "minimal", "mem": 512, "idle": 1, "autoSleep": False}
        made = (await http.post("/api/sandboxes", json=fields)).json()["data"]
        box = Box(rest, http, f"/api/sandboxes/{made['id']}")
        yield box
        assert (await http.delete(box.base)).status_code == 200


async def seen(socket: ClientConnection, kind: str, path: str) -> list[dict[str, Any]]:
    """Read events up to one, and return them all."""
    found: list[dict[str, Any]] = []
    with anyio.fail_after(PATIENCE_S):
        while not found or (found[-1]["type"], found[-1]["path"]) != (kind, path):
            found.append(json.loads(await socket.recv()))
    return found


async def test_a_watch_sees_what_programs_do_through_a_snapshot_and_a_sleep(box: Box) -> None:
    async with box.watched("/root") as socket:
        await box.run("mkdir -p /root/a/b/c; echo hello > /root/a/b/c/file")
        assert not (await seen(socket, "created", "/root/a/b/c/file"))[-1]["isDir"]
        await box.run("mv /root/a /root/z")
        assert (await seen(socket, "renamed", "/root/z"))[-1]["oldPath"] == "/root/a"

        taken = await box.http.post(f"{box.base}/snapshots", json={"name": "watched"})
        assert taken.status_code == 201, taken.text
        await box.run("touch /root/z/b/c/later")
        assert "overflow" not in {event["type"] for event in await seen(socket, "created", "/root/z/b/c/later")}

        # The open socket does not keep it awake.
        assert (await box.http.patch(box.base, json={"autoSleep": True})).status_code == 200

        async def sleeps() -> bool:
            return await box.status() == "snapshotted"

        await until(sleeps)
        assert (await box.http.patch(box.base, json={"autoSleep": False})).status_code == 200
        await box.run("true")
        assert "slept" in (await seen(socket, "overflow", "/root"))[-1]["reason"]
        await box.run("rm -r /root/z")
        assert (await seen(socket, "deleted", "/root/z"))[-1]["isDir"]
    assert (await box.http.delete("/api/snapshots/watched")).status_code == 200


async def test_a_fork_has_no_watches_and_those_of_the_original_go_on(box: Box) -> None:
    async with box.watched("/root") as socket:
        (child,) = (await box.http.post(f"{box.base}/fork", json={"count": 1})).json()["data"]
        fork = Box(box.rest, box.http, f"/api/sandboxes/{child['id']}")
        async with fork.watched("/root") as other:
            await fork.run("touch /root/in-fork")
            await box.run("touch /root/in-original")
            own = await seen(socket, "created", "/root/in-original")
            assert "/root/in-fork" not in {event["path"] for event in own}
            assert "overflow" not in {event["type"] for event in own}
            await fork.run("touch /root/last")
            theirs = await seen(other, "created", "/root/last")
            assert [event["path"] for event in theirs if event["type"] == "created"] == ["/root/in-fork", "/root/last"]
        assert (await box.http.delete(fork.base)).status_code == 200
