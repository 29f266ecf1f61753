"""The machine of a run, when the run ends while it is still being asked for."""

from __future__ import annotations

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_server.cli.remote import Remote
from mcp_server.cli.run_machine import open_machine
from tests.mcp_server.edge import serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


class SlowServer:
    """A server that answers a create only when it is told to, and counts what is deleted."""

    def __init__(self) -> None:
        self.asked, self.proceed = anyio.Event(), anyio.Event()
        self.deleted: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/api/sandboxes", self.create, methods=["POST"]),
                Route("/api/sandboxes/{id}", self.delete, methods=["DELETE"]),
            ]
        )

    async def create(self, _request: Request) -> JSONResponse:
        self.asked.set()
        await self.proceed.wait()
        return JSONResponse({"data": {"id": "late"}}, 201)

    async def delete(self, request: Request) -> JSONResponse:
        self.deleted.append(request.path_params["id"])
        return JSONResponse({})


async def test_a_sandbox_that_is_created_after_the_run_was_cancelled_is_deleted() -> None:
    server = SlowServer()

    async def opened(remote: Remote) -> None:
        async with open_machine(remote, "x", {}, ttl_s=0, cwd="/"):
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
