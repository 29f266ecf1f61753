"""Calls with descriptors, to a server on a real unix socket that says what the program would."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.waiting import PATIENCE_S
from vmm.hypervisor.ch_api import Api, ApiError, api
from vmm.hypervisor.unix_socket import listening

pytestmark = pytest.mark.anyio

# As the program writes it: no reason after the status.
_NO_CONTENT = b"HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n"


def with_content(status: int, content: bytes) -> bytes:
    head = f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


@dataclass(slots=True)
class Asked:
    """One request as it arrived."""

    head: str = ""
    body: Any = None
    passed: list[int] = field(default_factory=list[int])


@asynccontextmanager
async def program(place: Path, *pieces: bytes) -> AsyncGenerator[tuple[Api, Asked]]:
    """A program that answers one request with these pieces, and closes the connection."""
    asked = Asked()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            data, asked.passed, _, _ = socket.recv_fds(connection, 1024, 8)
            while not _whole(data):
                data += connection.recv(1024)
            head, _, body = data.partition(b"\r\n\r\n")
            asked.head, asked.body = head.decode(), json.loads(body)
            for piece in pieces:
                connection.sendall(piece)

    with listening(place / "api.sock") as listener:
        listener.settimeout(PATIENCE_S)
        async with anyio.create_task_group() as tasks, api(place / "api.sock") as session:
            tasks.start_soon(anyio.to_thread.run_sync, serve, listener)
            yield session, asked
    for descriptor in asked.passed:
        os.close(descriptor)


def _whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    length = next((line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), b"0")
    return bool(end) and len(body) == int(length)


async def call(session: Api, descriptor: int, body: dict[str, Any] | None = None) -> Any:
    return await session.call("PUT", "vm.add-net", body or {"id": "net"}, descriptors=(descriptor,))


async def test_a_descriptor_arrives_with_its_request_and_stays_the_callers(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read, os.fdopen(writer, "wb") as write:
        async with program(tmp_path, _NO_CONTENT) as (session, asked):
            assert await call(session, write.fileno()) is None
            assert asked.head.startswith("PUT /api/v1/vm.add-net HTTP/1.1\r\n")
            assert asked.body == {"id": "net"}
            (passed,) = asked.passed
            os.write(passed, b"packet")
            assert os.read(read.fileno(), 6) == b"packet"
        write.write(b"still open")


async def test_a_request_longer_than_one_read_has_its_descriptor_once(tmp_path: Path) -> None:
    body = {"id": "n" * 5000}
    with Path(os.devnull).open("rb") as file:
        async with program(tmp_path, _NO_CONTENT) as (session, asked):
            await call(session, file.fileno(), body)
            assert asked.body == body
            assert len(asked.passed) == 1


@pytest.mark.parametrize("split", [1, 20, 60, 90])
async def test_an_answer_may_come_in_pieces_and_after_others_that_announce_it(tmp_path: Path, split: int) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + with_content(200, b'{"id": "net"}')
    with Path(os.devnull).open("rb") as file:
        async with program(tmp_path, answer[:split], answer[split:]) as (session, _):
            assert await call(session, file.fileno()) == {"id": "net"}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (with_content(500, b'["Error from API", "the tap is taken"]'), "refused vm.add-net: .*the tap is taken"),
        (with_content(200, b"{"), "not JSON"),
        (with_content(200, b"{}")[:-1], "ended during vm.add-net"),
        (b"", "ended during vm.add-net"),
        (b"220 smtp ready\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 2x0 \r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 \r\nContent-Length: 99999999\r\n\r\n", "not HTTP: its content is too long"),
        (b"HTTP/1.1 200 \r\n" + b"X: y\r\n" * 5000, "not HTTP: its head is too long"),
    ],
)
async def test_what_is_not_a_good_answer_is_told(tmp_path: Path, answer: bytes, told: str) -> None:
    with Path(os.devnull).open("rb") as file:
        async with program(tmp_path, answer) as (session, _):
            with pytest.raises(ApiError, match=told):
                await call(session, file.fileno())


async def test_a_program_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with listening(tmp_path / "api.sock"), Path(os.devnull).open("rb") as file:
        async with api(tmp_path / "api.sock", call_s=0.1) as session:
            with pytest.raises(ApiError, match=r"did not answer vm\.add-net within 0\.1 s"):
                await call(session, file.fileno())
