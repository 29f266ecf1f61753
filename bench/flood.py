"""Good callers beside a flood of refused keys from the same address: `python -m bench.flood [SECONDS] [PER_SECOND]`.

Eight callers, each with a key of its own, call `list_sandboxes` in a loop: without the flood, with it, and without it
again. The flood comes from another process at fixed moments, whether the server answers in time or not.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import sys
import time
from collections import Counter
from subprocess import DEVNULL, PIPE

import anyio
import httpx
import uvloop

from bench.audit import processor_s
from bench.server import HEAD, Server, row, running
from bench.wire import Connection, list_sandboxes

_CALLERS = 8
_WARM_UP_S = 3
_TICK_S = 0.002
_MOST_CONNECTIONS = 256


async def main(seconds: int, rate: int) -> None:
    async with running(
        log=DEVNULL,
        CASEMATE_LOG_LEVEL="info",  # as in production, but into nowhere
        CASEMATE_RATE_LIMIT_REQUESTS="10000000",
        CASEMATE_WARM="false",
    ) as server:
        keys = await make_keys(server)
        await calls(server, keys, _WARM_UP_S)
        base, base_load = await calls(server, keys, seconds)
        command = [sys.executable, "-m", "bench.flood", "send", server.url, str(seconds), str(rate)]
        async with await anyio.open_process(command, stdout=PIPE, stderr=None) as flood:
            assert flood.stdout is not None
            await flood.stdout.receive()
            flooded, flooded_load = await calls(server, keys, seconds)
            sent = json.loads(await flood.stdout.receive())
        after, after_load = await calls(server, keys, seconds)
    print(HEAD)
    print(row("no-op tools/call, 8 good callers", base))
    print(row(f"the same beside {sent['rate']:.0f} refused keys a second", flooded))
    print(row("the same afterwards", after))
    print(f"\nThe flood: {sent['sent']} requests, answered {sent['statuses']}, {sent['late']} never sent for want of a")
    print(f"connection; p99 of its answers {sent['p99_ms']:.1f} ms, processor time {sent['load']:.0%} of a core.")
    print(f"The server's processor time: {base_load:.0%}, {flooded_load:.0%} and {after_load:.0%} of a core.")
    print(f"p50 {ratio(flooded, base, 49):.2f} times, p99 {ratio(flooded, base, 98):.2f} times as long as before.")


async def make_keys(server: Server) -> list[str]:
    address = server.url.removesuffix("/mcp") + "/orgs/apikeys"
    async with httpx.AsyncClient(headers={"x-api-key": server.key}) as http:
        made = [await http.post(address, json={"keyName": f"caller {number}"}) for number in range(_CALLERS)]
    return [answer.raise_for_status().json()["plainKey"] for answer in made]


async def calls(server: Server, keys: list[str], seconds: float) -> tuple[list[float], float]:
    """What each call took in seconds, and the share of a core that the server used meanwhile."""
    times: list[float] = []
    began, used = time.monotonic(), processor_s(server)

    async def caller(key: str) -> None:
        connection, request = await Connection.to(server.url), list_sandboxes(server.url, key)
        while time.monotonic() < began + seconds:
            sent = time.perf_counter()
            status, body = await connection.ask(request)
            times.append(time.perf_counter() - sent)
            if status != 200 or b'"isError":false' not in body:
                raise SystemExit(f"A good caller was refused: {status} {body[:300]!r}")
        connection.close()

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(caller, key)
    return times, (processor_s(server) - used) / (time.monotonic() - began)


async def send(url: str, seconds: float, rate: int) -> None:
    """Be the flood: say that it begins, and at its end how it went."""
    idle: list[Connection] = []
    connections = late = sent = 0
    statuses: Counter[int] = Counter()
    times: list[float] = []

    async def refused() -> None:
        nonlocal connections, late
        due = time.perf_counter()
        if not idle and connections >= _MOST_CONNECTIONS:
            late += 1
            return
        if idle:
            connection = idle.pop()
        else:
            connections += 1
            connection = await Connection.to(url)
        status, _ = await connection.ask(list_sandboxes(url, f"cm_{secrets.token_urlsafe(32)}"))
        statuses[status] += 1
        times.append(time.perf_counter() - due)
        idle.append(connection)

    print("begins", flush=True)
    began, used = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        while (passed := time.monotonic() - began) < seconds:
            while sent < passed * rate:
                sent += 1
                tasks.create_task(refused())
            await asyncio.sleep(_TICK_S)
    for connection in idle:
        connection.close()
    told = {
        "sent": sent - late,
        "late": late,
        "rate": (sent - late) / seconds,
        "statuses": ", ".join(f"{count} times {status}" for status, count in statuses.most_common()),
        "p99_ms": statistics.quantiles(times, n=100)[98] * 1000,
        "load": (time.process_time() - used) / (time.monotonic() - began),
    }
    print(json.dumps(told), flush=True)


def ratio(these: list[float], those: list[float], cut: int) -> float:
    one, other = (statistics.quantiles(times, n=100)[cut] for times in (these, those))
    return one / other


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        uvloop.run(send(sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
    else:
        chosen = (*(int(argument) for argument in sys.argv[1:3]), *(30, 1000)[len(sys.argv) - 1 :])
        anyio.run(lambda: main(*chosen), backend_options={"use_uvloop": True})
