"""The egress end over the loopback, compared with direct connections, and its memory: `python -m bench.egress`.

The server and the client are processes of their own, so that memory is that of the egress end. The client connects to
a port of the egress end as a guest's program does to its agent; the link to the guest is not part of this.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from subprocess import DEVNULL, PIPE
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from bench.figures import resident, table
from vmm.network.addresses import AddressBook
from vmm.network.egress import Egress, EgressRefused
from vmm.network.log import NetworkLog
from vmm.network.policy import Policy
from vmm.network.rules import HostRules, Rules

_LOOPBACK = "127.0.0.1"
_MIB = 1024 * 1024
_LARGE = 256
_CONNECTIONS = 500
_CALLERS = 16
_OPEN = 200
_RUNS = 5
_UP, _DOWN, _ONE, _ENDLESS = b"u", b"d", b"o", b"e"


async def main() -> None:
    async with egress() as (way, direct):
        through: dict[str, list[float]] = {what: [] for what in _LABELS}
        straight: dict[str, list[float]] = {what: [] for what in _LABELS}
        processor: dict[str, list[float]] = {what: [] for what in _LABELS}
        for _ in range(_RUNS):
            for what in _LABELS:
                straight[what].append(float(await client(what, direct)))
                began = time.process_time()
                through[what].append(float(await client(what, way)))
                processor[what].append((time.process_time() - began) / _COUNT[what])
        rows = [row(label, through[what], straight[what], processor[what]) for what, label in _LABELS.items()]
        print(table(["what", "egress", "direct", "ratio", "processor time for each"], rows))
        memory = [[label, f"{await grown(what, way):.1f} MiB"] for what, label in _HELD.items()]
    print(f"\n{table([f'{_OPEN} connections', 'memory'], memory)}")


_LABELS = {
    "up": "MiB/s to the world",
    "down": "MiB/s from the world",
    "one": "connections/s, one after the other",
    "many": f"connections/s, {_CALLERS} at once",
}
_COUNT = {"up": _LARGE, "down": _LARGE, "one": _CONNECTIONS, "many": _CONNECTIONS}
_HELD = {"idle": "idle", "stalled": "the program reads nothing of an endless answer"}


def row(label: str, through: list[float], straight: list[float], processor: list[float]) -> list[str]:
    best, compared = max(through), max(straight)
    took = f"{min(processor) * 1000:.2f} ms"
    return [label, f"{best:,.0f}", f"{compared:,.0f}", f"{best / compared:.2f}", took]


@asynccontextmanager
async def egress() -> AsyncGenerator[tuple[int, int]]:
    """An egress end in front of a server; gives its port and the server's."""
    rules = Rules(Policy.parse("internet"), HostRules(opened=(IPv4Network("127.0.0.0/8"),)))
    way = Egress(lambda: rules, AddressBook(), NetworkLog(lambda: 0))
    listener = await anyio.create_tcp_listener(local_host=_LOOPBACK, local_port=0, backlog=1024)
    async with (
        await anyio.open_process([sys.executable, "-m", "bench.egress", "serve"], stdout=PIPE, stderr=None) as server,
        listener,
        anyio.create_task_group() as tasks,
    ):
        assert server.stdout is not None
        port = int(await server.stdout.receive())

        async def carry(stream: SocketStream) -> None:
            @asynccontextmanager
            async def take() -> AsyncGenerator[ByteStream]:
                async with stream:
                    yield stream

            try:
                await way.run(IPv4Address(_LOOPBACK), port, take)
            except EgressRefused as refusal:
                print(refusal, file=sys.stderr)

        tasks.start_soon(listener.serve, carry)
        yield listener.extra(SocketAttribute.local_port), port
        tasks.cancel_scope.cancel()
        server.kill()


async def client(what: str, port: int) -> Any:
    """Run a client to its end; what it prints."""
    done = await anyio.run_process([sys.executable, "-m", "bench.egress", what, str(port)], stderr=None)
    return json.loads(done.stdout)


async def grown(what: str, port: int) -> float:
    """MiB that this process has more while a client holds its connections."""
    before = resident()
    command = [sys.executable, "-m", "bench.egress", what, str(port)]
    async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        await holder.stdout.receive()
        await anyio.sleep(1)  # so that what flows has come to a halt
        more = resident() - before
        await holder.stdin.aclose()
        await holder.wait()
    return more


def serve() -> None:
    """Answer each connection in a thread: its first byte says how."""
    with socket.create_server((_LOOPBACK, 0), backlog=1024) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=_answer, args=(server.accept()[0],), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        try:
            kind = connection.recv(1)
            if kind == _UP:
                while connection.recv(_MIB):
                    pass
                connection.sendall(kind)
            elif kind == _DOWN:
                for _ in range(_LARGE):
                    connection.sendall(bytes(_MIB))
            elif kind == _ENDLESS:
                while True:
                    connection.sendall(bytes(_MIB))
            else:
                connection.sendall(kind)
                connection.recv(1)
        except OSError:
            return


def up(port: int) -> float:
    with socket.create_connection((_LOOPBACK, port)) as connection:
        began = time.monotonic()
        connection.sendall(_UP)
        for _ in range(_LARGE):
            connection.sendall(bytes(_MIB))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return _LARGE / (time.monotonic() - began)


def down(port: int) -> float:
    with socket.create_connection((_LOOPBACK, port)) as connection:
        began = time.monotonic()
        connection.sendall(_DOWN)
        received = 0
        while data := connection.recv(_MIB):
            received += len(data)
        assert received == _LARGE * _MIB
        return _LARGE / (time.monotonic() - began)


def one(port: int, count: int = _CONNECTIONS) -> float:
    began = time.monotonic()
    for _ in range(count):
        with socket.create_connection((_LOOPBACK, port)) as connection:
            connection.sendall(_ONE)
            assert connection.recv(1) == _ONE
    return count / (time.monotonic() - began)


def many(port: int) -> float:
    count = _CONNECTIONS // _CALLERS
    threads = [threading.Thread(target=one, args=(port, count)) for _ in range(_CALLERS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count * _CALLERS / (time.monotonic() - began)


def hold(port: int, first: bytes) -> None:
    """Open connections, say so, and keep them until the input ends."""
    connections = [socket.create_connection((_LOOPBACK, port)) for _ in range(_OPEN)]
    for connection in connections:
        connection.sendall(first)
        assert connection.recv(1)
    print("open", flush=True)
    sys.stdin.read()


_RUN: dict[str, Callable[[int], float]] = {"up": up, "down": down, "one": one, "many": many}

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case [("idle" | "stalled") as kept, number]:
            hold(int(number), _ONE if kept == "idle" else _ENDLESS)
        case [what, number]:
            print(json.dumps(_RUN[what](int(number))))
        case _:
            anyio.run(main, backend_options={"use_uvloop": True})
