"""The machine of a run, when the run ends while it is still being asked for."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_server.cli import run_machine
from mcp_server.cli.remote import Remote
from mcp_server.cli.run_machine import open_machine
from tests.mcp_server.edge import serving
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


class SlowServer:
    """A server that answers a create only when it is told to, and records what is changed and deleted."""

    def __init__(self) -> None:
        self.asked, self.proceed = anyio.Event(), anyio.Event()
        self.deleted: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/api/sandboxes", self.create, methods=["POST"]),
                Route("/api/sandboxes/{id}", self.delete, methods=["DELETE"]),
                Route("/api/sandboxes/{id}", self.update, methods=["PATCH"]),
                Route("/api/sandboxes/{id}/wake", self.answer, methods=["POST"]),
                Route("/api/sandboxes/{id}/exec", self.answer, methods=["POST"]),
            ]
        )

    async def create(self, request: Request) -> JSONResponse:
        self.bodies.append(await request.json())
        self.asked.set()
        await self.proceed.wait()
        return JSONResponse({"data": {"id": "late"}}, 201)

    async def update(self, request: Request) -> JSONResponse:
        self.bodies.append(await request.json())
        return JSONResponse({}, 500 if len(self.bodies) == 2 else 200)

    async def answer(self, _request: Request) -> JSONResponse:
        return JSONResponse({"data": {"exitCode": 0}})

    async def delete(self, request: Request) -> JSONResponse:
        self.deleted.append(request.path_params["id"])
        return JSONResponse({})


async def test_a_sandbox_that_is_created_after_the_run_was_cancelled_is_deleted() -> None:
    server = SlowServer()

    async def opened(remote: Remote) -> None:
        async with open_machine(remote, "x", {}, cwd="/"):
            raise AssertionError

    with anyio.fail_after(PATIENCE_S):
        async with (
            serving(server.app) as edge,
            Remote.connect(edge.url, key="", key_origin="", loopback=True) as remote,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(opened, remote)
            await server.asked.wait()
            tasks.cancel_scope.cancel()
            server.proceed.set()
    assert server.deleted == ["late"]


async def test_a_machine_is_kept_for_as_long_as_its_run_lives_and_a_renewal_may_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_machine, "_RENEW_S", 0)
    server = SlowServer()
    server.proceed.set()
    async with (
        serving(server.app) as edge,
        Remote.connect(edge.url, key="", key_origin="", loopback=True) as remote,
        open_machine(remote, "x", {"network": "none"}, cwd="/"),
    ):
        await until(lambda: len(server.bodies) > 3)
    created, *renewed = server.bodies
    assert (created["ttl"], created["autoSleep"], created["network"]) == (900, False, "none")
    assert all(body == {"ttl": 900} for body in renewed)
    assert server.deleted == ["late"]


async def test_what_a_block_raises_is_raised_as_it_is() -> None:
    server = SlowServer()
    server.proceed.set()
    async with serving(server.app) as edge, Remote.connect(edge.url, key="", key_origin="", loopback=True) as remote:
        with pytest.raises(ValueError, match="own"):
            async with open_machine(remote, "x", {}, cwd="/"):
                raise ValueError("own")
    assert server.deleted == ["late"]
