from __future__ import annotations

import json
import socket
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketListener
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.vmm import still
from vmm.errors import HostExhausted
from vmm.hypervisor.ch_api import api
from vmm.hypervisor.qmp import Qmp, QmpError

pytestmark = pytest.mark.anyio


async def test_a_socket_that_breaks_before_the_greeting_means_that_the_hypervisor_ended(tmp_path: Path) -> None:
    address = tmp_path / "qmp.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_reset_soon, listener)
        with pytest.raises(QmpError, match="has ended"):
            await Qmp.connect(address)


async def test_a_server_with_too_many_open_files_takes_no_hypervisor_for_dead(tmp_path: Path) -> None:
    address = tmp_path / "control.sock"
    async with await anyio.create_unix_listener(address):
        with still.no_more_files():
            with pytest.raises(HostExhausted, match="too many files open"):
                await Qmp.connect(address)
            with pytest.raises(HostExhausted, match="too many files open"):
                async with api(address):
                    pass


async def _reset_soon(listener: socket.socket) -> None:
    # As with a QEMU that ends: a connection that was never accepted is reset when its listener closes.
    await anyio.wait_all_tasks_blocked()
    listener.close()


async def test_the_answer_to_an_abandoned_command_is_not_used_for_the_next_one(tmp_path: Path) -> None:
    address = tmp_path / "qmp.sock"
    heard, asked = anyio.Event(), anyio.Event()
    async with await anyio.create_unix_listener(address) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(_answer_late, listener, heard, asked)
        async with await Qmp.connect(address) as session:
            async with anyio.create_task_group() as given_up:
                given_up.start_soon(session.run, "slow")
                await heard.wait()
                given_up.cancel_scope.cancel()
            asked.set()
            assert await session.run("quick") == "quick"


async def _answer_late(listener: SocketListener, heard: anyio.Event, asked: anyio.Event) -> None:
    async with await listener.accept() as stream:
        await stream.send(b'{"QMP": {}}\n')
        lines = BufferedByteReceiveStream(stream)
        for _ in ("qmp_capabilities", "slow", "quick"):
            command = json.loads(await lines.receive_until(b"\n", 1024))
            if command["execute"] == "slow":
                heard.set()
                await asked.wait()
                await stream.send(b'{"event": "STOP", "data": {}}\n')
            await stream.send(json.dumps({"return": command["execute"], "id": command["id"]}).encode() + b"\n")
