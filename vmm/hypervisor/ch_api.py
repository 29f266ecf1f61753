"""The API of cloud-hypervisor: HTTP over the machine's unix socket.

Source: vmm/src/api/openapi/cloud-hypervisor.yaml of v53.0. The socket is trusted by the program, so only this project's
own values may go through it; nothing that a user chose does.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

from ..errors import Unavailable
from .process import ProcessRef

_RETRY_S = 0.002
_START_S = 10.0
_CALL_S = 60.0
_SHOWN = 300


class ApiError(Unavailable):
    """cloud-hypervisor refused a call, or its control socket is gone."""


class Api:
    """A session on one machine's control socket, with one connection that is kept."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def call(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call, and return the JSON of the answer, None where there is none.

        Args:
            method: GET or PUT.
            name: Such as `vm.info`.
            body: The argument.

        Raises:
            ApiError: The program refused it, did not answer in time, or is gone.
        """
        try:
            answer = await self._http.request(method, f"/api/v1/{name}", json=body)
        except httpx2.TimeoutException:
            raise ApiError(f"The hypervisor did not answer {name} within {_CALL_S:g} s") from None
        except httpx2.HTTPError as error:
            raise ApiError(f"The hypervisor ended during {name}") from error
        if answer.status_code >= 300:
            raise ApiError(f"The hypervisor refused {name}: {answer.text.strip()[:_SHOWN]}")
        return answer.json() if answer.content else None


@asynccontextmanager
async def api(socket: Path) -> AsyncGenerator[Api]:
    """A session for the length of a block.

    Args:
        socket: The control socket.
    """
    # A socket's address holds 107 bytes; data directories may be deeper than that.
    directory = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        transport = httpx2.AsyncHTTPTransport(uds=f"/proc/self/fd/{directory}/{socket.name}")
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=_CALL_S, trust_env=False
        ) as http:
            yield Api(http)
    finally:
        os.close(directory)


@asynccontextmanager
async def started_api(socket: Path, process: ProcessRef) -> AsyncGenerator[Api]:
    """A session with a program that was just started, for the length of a block.

    Raises:
        ApiError: It ended first, or does not open its socket within the deadline.
    """
    async with api(socket) as session:
        await _answered(session, process)
        yield session


async def _answered(session: Api, process: ProcessRef) -> None:
    with anyio.move_on_after(_START_S):
        while process.alive():
            try:
                await session.call("GET", "vmm.ping")
            except ApiError:  # its socket is not there yet
                await anyio.sleep(_RETRY_S)
                continue
            return
        raise ApiError("The hypervisor ended while it started")
    raise ApiError(f"The hypervisor did not open its control socket within {_START_S:g} s")
