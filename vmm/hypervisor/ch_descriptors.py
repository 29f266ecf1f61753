"""Calls of cloud-hypervisor's API that pass descriptors (SCM_RIGHTS), which no HTTP library sends.

Source: vmm/src/api/http/http_endpoint.rs of v53.0, and src/connection.rs of micro_http, which that uses: what arrives
with a request's bytes belongs to the request. The program keeps copies, so ours can be closed after the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .unix_socket import UnixStream, connect_unix

_MOST_HEAD, _MOST_BODY = 16 * 1024, 1024 * 1024
_END = b"\r\n\r\n"
_NO_CONTENT, _FIRST_FINAL = 204, 200


async def put_with_descriptors(
    socket: Path, path: str, body: Mapping[str, Any], descriptors: Sequence[int]
) -> tuple[int, bytes]:
    """Send one request on a connection of its own, and return the answer's status and content. Sets no deadline.

    Args:
        socket: The control socket.
        path: The path of the request.
        body: Its JSON.
        descriptors: What to pass.

    Raises:
        OSError: Nobody listens there.
        EndOfStream: The program ended the connection without an answer.
        BrokenResourceError: It broke.
        ValueError: The answer is not HTTP.
    """
    content = json.dumps(body).encode()
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    async with await connect_unix(socket) as stream:
        await stream.send_fds(head.encode() + content, descriptors)
        return await _answer(stream)


async def _answer(stream: UnixStream) -> tuple[int, bytes]:
    received = b""
    while True:
        while _END not in received:
            if len(received) > _MOST_HEAD:
                raise ValueError("its head is too long")
            received += await stream.receive()
        head, _, received = received.partition(_END)
        status, length = _read_head(head)
        if status >= _FIRST_FINAL:  # others announce the answer
            break
    if length > _MOST_BODY:
        raise ValueError("its content is too long")
    while len(received) < length:
        received += await stream.receive()
    return status, received[:length]


def _read_head(head: bytes) -> tuple[int, int]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("its first line is not HTTP")
    status = int(rest[:3])
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in fields:
        raise ValueError("its content is encoded")
    return status, 0 if status == _NO_CONTENT else int(fields.get("content-length", "0"))
