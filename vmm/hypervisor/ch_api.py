"""The API of cloud-hypervisor: HTTP over the machine's unix socket.

Source: vmm/src/api/openapi/cloud-hypervisor.yaml of v53.0. The program trusts the socket, so send only values of this
project, never of a user.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

from ..disk.os_errors import EXHAUSTED, translate_os_error
from ..errors import Unavailable
from .ch_descriptors import put_with_descriptors
from .startup import START_S
from .unix_socket import address

CALL_S = 60.0
"""Time limit of a call that reads or writes no memory."""
MEMORY_S = 600.0
"""Time limit of a call that reads or writes a machine's whole memory."""

_SHOWN = 300
# A unix socket needs no TLS; by default each client loads all of the host's certificates, which takes 30 ms.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class ApiError(Unavailable):
    """cloud-hypervisor refused a call, or its control socket is gone."""


class Api:
    """A session on one machine's control socket, over one connection; calls that pass descriptors have their own."""

    def __init__(self, http: httpx2.AsyncClient, socket: Path, call_s: float) -> None:
        self._http = http
        self._socket = socket
        self._call_s = call_s

    async def call(
        self,
        method: str,
        name: str,
        body: Mapping[str, Any] | None = None,
        *,
        within_s: float | None = None,
        descriptors: Sequence[int] = (),
    ) -> Any:
        """Call, and return the JSON of the answer; None if it has none.

        Args:
            method: GET or PUT.
            name: The call, such as `vm.info`.
            body: The argument.
            within_s: The deadline in seconds, if not the session's.
            descriptors: What to pass with a PUT that has a body; the program makes copies.

        Raises:
            ApiError: The program refused it, did not answer in time, or is gone.
        """
        limit_s = self._call_s if within_s is None else within_s
        try:
            return await self._asked(method, name, body, limit_s, descriptors)
        except TimeoutError:
            raise ApiError(f"The hypervisor did not answer {name} within {limit_s:g} s") from None
        except (httpx2.HTTPError, OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise ApiError(f"The hypervisor ended during {name}") from error

    async def version(self, within_s: float) -> str:
        """Ask a program that may still be starting for its version, such as `53.0`.

        Raises:
            ApiError: It has ended, or does not answer within so many seconds.
        """
        try:
            answer = await self._asked("GET", "vmm.ping", None, within_s)
        except TimeoutError:
            raise ApiError(f"The hypervisor did not answer on its control socket within {within_s:g} s") from None
        except httpx2.HTTPError as error:
            raise ApiError("The hypervisor has ended") from error
        return ".".join(str(answer["version"]).split(".")[:2])

    async def _asked(
        self,
        method: str,
        name: str,
        body: Mapping[str, Any] | None,
        limit_s: float,
        descriptors: Sequence[int] = (),
    ) -> Any:
        path = f"/api/v1/{name}"
        with anyio.fail_after(limit_s):
            if descriptors:
                status, content = await self._put(name, path, body or {}, descriptors)
            else:
                answer = await self._http.request(method, path, json=body, timeout=None)
                status, content = answer.status_code, answer.content
        if status >= 300:
            raise ApiError(f"The hypervisor refused {name}: {content.decode(errors='replace').strip()[:_SHOWN]}")
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise ApiError(f"The hypervisor answered {name} with something that is not JSON") from error

    async def _put(
        self, name: str, path: str, body: Mapping[str, Any], descriptors: Sequence[int]
    ) -> tuple[int, bytes]:
        try:
            return await put_with_descriptors(self._socket, path, body, descriptors)
        except ValueError as error:
            raise ApiError(f"The hypervisor answered {name} with something that is not HTTP: {error}") from error


@asynccontextmanager
async def api(socket: Path, *, call_s: float = CALL_S) -> AsyncGenerator[Api]:
    """Open a session for the length of a block.

    Args:
        socket: The control socket.
        call_s: The deadline of its calls in seconds.

    Raises:
        ApiError: There is no such socket: the program has ended.
        HostExhausted: The server has too many open files.
    """
    with ExitStack() as stack:
        try:
            short = stack.enter_context(address(socket))
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise translate_os_error(error, "the hypervisor's control socket", socket) from error
            raise ApiError("The hypervisor has ended: its control socket is gone") from error
        transport = httpx2.AsyncHTTPTransport(uds=short, verify=_NO_CERTIFICATES)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False) as http:
            yield Api(http, socket, call_s)


@asynccontextmanager
async def started_api(
    socket: Path, version: str, *, start_s: float = START_S, call_s: float = CALL_S
) -> AsyncGenerator[Api]:
    """Open a session with a program that was just started, for the length of a block.

    Args:
        socket: Its control socket.
        version: The expected version, such as `53.0`; a saved state needs exactly that.
        start_s: Seconds until it must answer.
        call_s: The deadline of each call after that.

    Raises:
        ApiError: It has ended, does not answer in time, or has another version.
    """
    async with api(socket, call_s=call_s) as session:
        found = await session.version(start_s)
        if found != version:
            raise ApiError(
                f"The hypervisor's version must be {version}, as at server start, got {found}",
                hint="Restart the server, which then builds new templates",
            )
        yield session
