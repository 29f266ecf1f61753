"""What audit and limits cost a tool call that does nothing: `python -m bench.audit [ROUNDS]`.

Two servers, one with both and one with neither, answer the same calls in turn: a few by one caller, for the time that
they take, and many by eight at once, for the processor time that a busy server spends on each, its background writes
included. Both log one line for each call (the audit's, or the request's) and count it in their metrics.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL

import anyio
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.server import HEAD, Server, call, row
from bench.wire import Connection, list_sandboxes
from mcp_server.app import open_services
from mcp_server.audit.entry import AuditedRequest, Entry
from mcp_server.audit.log import AuditLog
from mcp_server.audit.middleware import AuditMiddleware
from mcp_server.audit.record import AUDIT
from mcp_server.http.serve import WebServer, listen
from mcp_server.observability import logs
from mcp_server.observability.metrics import Meters
from mcp_server.settings import Settings
from storage.collection import Collection
from vmm.hypervisor.process import ProcessRef

_CALLS = 50
_CALLERS = 8
_WARM_UP = 200
_SETTLE_S = 0.5
_START_S = 60


class Deaf(AuditLog):
    """Takes note of nothing, and counts calls all the same."""

    def __init__(self, collection: Collection, meters: Meters) -> None:
        super().__init__(collection, meters=meters, days=1)
        self._count = meters.call

    def record(
        self, entry: Entry, request: AuditedRequest, *, surface: str, action: str, began_ms: int, began: float
    ) -> None:
        self._count(surface, action, entry.decision, time.perf_counter() - began)

    async def run(self) -> None:
        pass


class Counted:
    """Counts requests, as `AuditMiddleware` does besides recording them."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 0, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._app(scope, receive, watched)
        self._meters.request(scope["method"], "mcp", status, time.perf_counter() - began)


async def serve(*, audited: bool) -> None:
    """Serve as `casemate serve` does, or without audit log and limits."""
    settings = Settings.load()
    if not audited:
        settings = settings.model_copy(update={"rate_limit_requests": 0, "refusals_per_minute": 0})
    # As in production, but into nowhere.
    logs.configure("info", "json")
    async with open_services(settings) as opened:
        silent = Deaf(await opened.database.collection(AUDIT), opened.meters)
        services = opened if audited else replace(opened, audit_log=silent)
        web = services.web()
        if not audited:
            counted = Middleware(Counted, meters=opened.meters)
            web.user_middleware = [counted if layer.cls is AuditMiddleware else layer for layer in web.user_middleware]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(services.run)
            server = WebServer(web, lambda: None)
            await server.serve([listen(settings.host, settings.port)])
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def running(mode: str) -> AsyncGenerator[Server]:
    """A server on a fresh data directory, in a process of its own. No sandbox is made, so it needs no images."""
    with tempfile.TemporaryDirectory(prefix="casemate-bench-") as name, listen("127.0.0.1", 0) as probe:
        place, port = Path(name), int(probe.getsockname()[1])
        probe.close()
        environment = os.environ | {
            "CASEMATE_DATA": name,
            "CASEMATE_PORT": str(port),
            "CASEMATE_RATE_LIMIT_REQUESTS": "10000000",
        }
        command = [sys.executable, "-m", "bench.audit", "serve", mode]
        began = time.monotonic()
        async with await anyio.open_process(command, env=environment, stdout=DEVNULL, stderr=DEVNULL) as process:
            try:
                with anyio.fail_after(_START_S):
                    while not (place / "key").exists() or not await _answers(port):
                        await anyio.sleep(0.1)
                ref = ProcessRef.of(process.pid)
                assert ref is not None
                yield Server(
                    url=f"http://127.0.0.1:{port}/api/mcp",
                    key=(place / "key").read_text().strip(),
                    data=place,
                    process=ref,
                    ready_s=time.monotonic() - began,
                )
            finally:
                process.terminate()


async def _answers(port: int) -> bool:
    try:
        async with await anyio.connect_tcp("127.0.0.1", port):
            return True
    except OSError:
        return False


async def main(rounds: int) -> None:
    async with (
        running("on") as with_both,
        running("off") as with_neither,
        with_both.client() as one,
        with_neither.client() as other,
    ):
        for client in (one, other):
            for _ in range(_WARM_UP):
                await call(client, "list_sandboxes")
        spent: dict[bool, list[float]] = {True: [], False: []}
        waited: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(rounds):
            for audited in (True, False) if turn % 2 else (False, True):
                server, client = (with_both, one) if audited else (with_neither, other)
                for _ in range(_CALLS):
                    began = time.monotonic()
                    await call(client, "list_sandboxes")
                    waited[audited].append(time.monotonic() - began)
                await anyio.sleep(_SETTLE_S)  # what is written in the background belongs to the calls
                spent[audited].append(await busy(server))
    print(HEAD)
    print(row("no-op tools/call, audit and limits on", waited[True]))
    print(row("the same, both off", waited[False]))
    print(row("processor time of a call, 8 callers, both on", spent[True]))
    print(row("the same, both off", spent[False]))
    difference = statistics.median(on - off for on, off in zip(spent[True], spent[False], strict=True))
    base = statistics.median(spent[False])
    print(f"\nProcessor time: {difference * 1000:+.2f} ms of {base * 1000:.2f} ms, {difference / base:+.1%}")


async def busy(server: Server) -> float:
    """Seconds of processor time for each of many calls at once."""
    request = list_sandboxes(server.url, server.key)
    connections = [await Connection.to(server.url) for _ in range(_CALLERS)]
    before = processor_s(server)

    async def caller(connection: Connection) -> None:
        for _ in range(_CALLS):
            status, _ = await connection.ask(request)
            assert status == 200

    async with anyio.create_task_group() as tasks:
        for connection in connections:
            tasks.start_soon(caller, connection)
    await anyio.sleep(_SETTLE_S)
    spent = processor_s(server) - before
    for connection in connections:
        connection.close()
    return spent / (_CALLS * _CALLERS)


def processor_s(server: Server) -> float:
    """Seconds of processor time that all threads of a server have had."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        anyio.run(lambda: serve(audited=sys.argv[2] == "on"), backend_options={"use_uvloop": True})
    else:
        anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 40, backend_options={"use_uvloop": True})
