from __future__ import annotations

import stat
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from vmm.hypervisor.spawn import CONTROL, spawn
from vmm.hypervisor.unix_socket import connect_unix, listening

pytestmark = pytest.mark.anyio

_GREETS = f"import socket; s = socket.socket(fileno={CONTROL}).accept()[0]; s.sendall(b'hello')"


async def test_a_program_answers_clients_that_connected_before_it_was_ready(tmp_path: Path) -> None:
    address = tmp_path / "control.sock"
    with listening(address) as control:
        process = spawn(["python3", "-c", _GREETS], directory=tmp_path, log=tmp_path / "log", control=control)
    async with await connect_unix(address) as stream:
        assert await stream.receive() == b"hello"
    assert await process.ended() == 0


async def test_a_program_that_ends_without_answering_closes_the_connection(tmp_path: Path) -> None:
    with listening(tmp_path / "control.sock") as control:
        process = spawn(["sleep", "0.2"], directory=tmp_path, log=tmp_path / "log", control=control)
    async with await connect_unix(tmp_path / "control.sock") as stream:
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await stream.receive()
    assert await process.ended() == 0


async def test_the_socket_of_an_earlier_program_is_replaced_and_only_its_user_may_connect(tmp_path: Path) -> None:
    address = tmp_path / "control.sock"
    address.write_text("stale")
    with listening(address):
        status = address.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600


async def test_a_directory_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with listening(deep / "control.sock") as control:
        async with await connect_unix(deep / "control.sock") as stream:
            accepted, _ = control.accept()
            with accepted:
                accepted.sendall(b"x")
                assert await stream.receive() == b"x"


async def test_a_client_waits_for_a_full_queue_without_busy_polling(tmp_path: Path) -> None:
    connected = 0

    async def connect() -> None:
        nonlocal connected
        async with await connect_unix(tmp_path / "control.sock"):
            connected += 1
            await anyio.sleep_forever()

    with listening(tmp_path / "control.sock") as control, anyio.fail_after(30):
        control.listen(1)  # as QEMU does
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(connect)
            while connected < 2:
                await anyio.sleep(0.01)
            worked = time.process_time()
            await anyio.sleep(1)
            assert time.process_time() - worked < 0.15
            for _ in range(5):
                accepted, _ = await anyio.to_thread.run_sync(control.accept)
                accepted.close()
            while connected < 5:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


async def test_a_link_to_another_machines_socket_is_not_followed(tmp_path: Path) -> None:
    elsewhere, link = tmp_path / "elsewhere.sock", tmp_path / "control.sock"
    with listening(elsewhere) as listener:
        listener.setblocking(False)
        link.symlink_to(elsewhere)
        with pytest.raises(OSError):
            await connect_unix(link)
        with pytest.raises(BlockingIOError):  # nobody has connected
            listener.accept()


async def test_a_socket_that_nobody_listens_on_is_refused(tmp_path: Path) -> None:
    address = tmp_path / "control.sock"
    with listening(address):
        pass
    with pytest.raises(ConnectionRefusedError):
        await connect_unix(address)
    with pytest.raises(FileNotFoundError):
        await connect_unix(tmp_path / "none.sock")


async def test_a_cancelled_receive_is_no_error_even_if_data_arrives_in_that_moment(tmp_path: Path) -> None:
    with listening(tmp_path / "control.sock") as listener:
        for _ in range(20):
            async with await connect_unix(tmp_path / "control.sock") as stream:
                peer, _ = listener.accept()
                with peer, anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(stream.receive)
                        await anyio.wait_all_tasks_blocked()
                        peer.send(b"x")
                        # Now the event loop learns of the data, and calls this task first.
                        await anyio.lowlevel.checkpoint()
                        scope.cancel()
