from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest

from vmm.hypervisor.process import ProcessRef
from vmm.hypervisor.qmp import Qmp, QmpError

pytestmark = pytest.mark.anyio


async def test_a_socket_that_breaks_before_the_greeting_is_a_hypervisor_that_ended(tmp_path: Path) -> None:
    living = ProcessRef.of(os.getpid())
    assert living is not None
    address = tmp_path / "qmp.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_reset_soon, listener)
        with pytest.raises(QmpError, match="ended while it started"):
            await Qmp.connect(address, living)


async def _reset_soon(listener: socket.socket) -> None:
    # A connection that nobody accepted is reset when its listener goes: what a dying QEMU leaves behind.
    await anyio.sleep(0.1)
    listener.close()
