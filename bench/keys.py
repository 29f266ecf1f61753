"""Key checks, look-ups, lists and registrations at 100 and at 10,000 rows, on both stores: `python -m bench.keys`.

Rows: as many users, keys and sandboxes, in organisations of 50. Both sizes are asked in turn, one caller at a time.
Requests pass the whole application (ASGI, without sockets), the audit included, and come with a hundred keys on either
size, so that as many are remembered; the rest are calls of the domain.

MongoDB is the server of `MONGO_TEST_URI`, or else the one of the tests, which ignores indexes that are not unique: its
figures for what needs one say nothing about MongoDB.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from statistics import quantiles
from typing import Any

import anyio
import anyio.to_thread
from pydantic import SecretStr
from pymongo import MongoClient
from starlette.applications import Starlette

from auth.authenticator import Authenticator
from auth.changes import Changes
from auth.credentials import Credential
from auth.keys import KEYS, KeyStore
from auth.roles import Role
from mcp_server.app import Services, open_services
from mcp_server.observability import logs
from mcp_server.settings import Settings
from storage.collection import Collection, Document
from storage.ids import new_id
from tests.mongo_server.server import MongoServer, missing
from vmm.machines.host_id import host_id
from vmm.sandboxes.sandbox import Sandbox, State
from vmm.sandboxes.spec import SandboxSpec
from vmm.sandboxes.store import SANDBOXES, SandboxStore

_SIZES = (100, 10_000)
_PER_ORGANISATION = 50
_PAIRS = 1000
_WARM_UP = 100
_CHECKS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A server's services over a store with so many rows.

    Attributes:
        stored: The keys as they are kept.
        keys: Their texts.
        homes: Organisation and sandbox of each key.
    """

    services: Services
    web: Starlette
    stored: Collection
    keys: list[str] = field(default_factory=list[str])
    homes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def authenticator(self, monotonic: Callable[[], float] = time.monotonic) -> Authenticator:
        """A check of keys with caches of its own."""
        keys = KeyStore(self.stored, monotonic=monotonic)
        return Authenticator(keys, self.services.identity.accounts, changes=Changes(), monotonic=monotonic)


async def main() -> None:
    logs.configure("error", "json")
    with tempfile.TemporaryDirectory(prefix="casemate-bench-") as name:
        await store("SQLite", Path(name), "")
        uri = os.environ.get("MONGO_TEST_URI", "")
        if uri:
            await store("MongoDB", Path(name), uri)
        elif missing():
            print(f"No MongoDB: {missing()}", file=sys.stderr)
        else:
            server = MongoServer(file=Path(name, "store.mv"))
            await anyio.to_thread.run_sync(server.start)
            try:
                await store("wire server", Path(name), server.uri)
            finally:
                await anyio.to_thread.run_sync(server.stop)


async def store(kind: str, place: Path, uri: str) -> None:
    async with AsyncExitStack() as stack:
        houses = [await stack.enter_async_context(opened(place / f"{kind} {rows}", uri)) for rows in _SIZES]
        for house, rows in zip(houses, _SIZES, strict=True):
            await fill(house, rows)
        print(f"\n| {kind}: key checks | rows | callers | checks/s | p50 | p99 |\n|---|---|---|---|---|---|")
        for house, rows in zip(houses, _SIZES, strict=True):
            for callers in (1, 16):
                await checks(f"from the store | {rows:,} | {callers}", house, uncached(house), callers, _CHECKS)
        for callers in (1, 16):
            cached = houses[0].authenticator()
            await checks(f"seen within 5 s | {_SIZES[0]} | {callers}", houses[0], cached, callers, 10 * _CHECKS)
        print(f"\n| {kind} | p50 of {_SIZES[0]} | of {_SIZES[1]:,} | ratio | p99 | of {_SIZES[1]:,} | ratio |")
        print("|---|---|---|---|---|---|---|")
        for label, make in CASES.items():
            await pairs(label, [make(house) for house in houses])


@asynccontextmanager
async def opened(data: Path, uri: str) -> AsyncGenerator[House]:
    """A server's services and application, running. No machine is made, so it needs no images."""
    database = f"casemate_bench_{new_id()}"
    await anyio.Path(data).mkdir()
    settings = Settings(
        data=data,
        mongo_uri=SecretStr(uri) if uri else None,
        mongo_db=database,
        rate_limit_requests=10_000_000,
        registrations_per_hour=100_000,
        network_way="user",
    )
    async with open_services(settings) as services, anyio.create_task_group() as tasks:
        web = services.web()
        tasks.start_soon(services.run)
        async with web.router.lifespan_context(web):
            yield House(services=services, web=web, stored=await services.database.collection(KEYS))
        tasks.cancel_scope.cancel()
    if uri:
        with MongoClient[Document](uri) as client:
            await anyio.to_thread.run_sync(client.drop_database, database)


async def fill(house: House, rows: int) -> None:
    """Add organisations until there are so many rows; through the stores' own doors, several at a time."""
    services = house.services
    store = SandboxStore(await services.database.collection(SANDBOXES), host=host_id(services.settings.data))
    accounts, keys, places = services.identity.accounts, services.identity.keys, anyio.CapacityLimiter(20)

    async def organisation() -> None:
        async with places:
            org_id = ""
            for number in range(_PER_ORGANISATION):
                user = await accounts.users.create(name="Ada", email=address())
                if org_id:
                    await accounts.organisations.add(org_id, user.id, Role.OWNER)
                else:
                    org_id = (await accounts.organisations.create(name="Home", owner_id=user.id)).id
                key = await keys.create(org_id=org_id, created_by=user.id, name="bench")
                spec = SandboxSpec(name=f"box-{number}", image="code", cpu=1, mem=1024, labels={"team": "blue"})
                sandbox = Sandbox.new(new_id(), org_id, spec, now_ms=time.time_ns() // 1_000_000)
                await store.insert(sandbox.moved(State.RUNNING, now_ms=sandbox.created_ms))
                house.keys.append(key.plain)
                house.homes.append((org_id, sandbox.id))

    async with anyio.create_task_group() as tasks:
        for _ in range(rows // _PER_ORGANISATION):
            tasks.start_soon(organisation)


def uncached(house: House) -> Authenticator:
    # A clock by which every answer is too old when it is looked at again.
    leaps = count(step=1000)
    return house.authenticator(lambda: float(next(leaps)))


async def checks(label: str, house: House, authenticator: Authenticator, callers: int, calls: int) -> None:
    times: list[float] = []
    keys = cycle([Credential(key=key) for key in house.keys])

    async def caller() -> None:
        for _ in range(calls // callers):
            credential = next(keys)
            began = time.perf_counter()
            await authenticator.authenticate(credential)
            times.append(time.perf_counter() - began)

    for key in house.keys[:_WARM_UP]:
        await authenticator.authenticate(Credential(key=key))
    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(caller)
    rate = len(times) / (time.perf_counter() - began)
    p50, p99 = cuts(times)
    print(f"| {label} | {rate:,.0f} | {p50:.3f} ms | {p99:.3f} ms |")


Call = Callable[[], Awaitable[object]]


async def pairs(label: str, calls: list[Call]) -> None:
    """Call for the small and the large in turn, and compare."""
    times: list[list[float]] = [[], []]
    for turn in range(_WARM_UP + _PAIRS):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            await calls[which]()
            if turn >= _WARM_UP:
                times[which].append(time.perf_counter() - began)
    (small50, small99), (large50, large99) = map(cuts, times)
    print(
        f"| {label} | {small50:.2f} ms | {large50:.2f} ms | {large50 / small50:.2f} "
        f"| {small99:.2f} ms | {large99:.2f} ms | {large99 / small99:.2f} |"
    )


def look_up(house: House) -> Call:
    credentials, authenticator = cycle([Credential(key=key) for key in house.keys]), uncached(house)
    return lambda: authenticator.authenticate(next(credentials))


def listed(house: House) -> Call:
    homes = cycle(house.homes)
    return lambda: house.services.fleet.sandboxes.list(next(homes)[0], limit=20)


def requested(method: str, path: str) -> Callable[[House], Call]:
    def make(house: House) -> Call:
        step = len(house.keys) // _SIZES[0]
        callers = cycle(list(zip(house.keys, house.homes, strict=True))[::step])

        async def call() -> None:
            key, (_, sandbox_id) = next(callers)
            await request(house.web, method, path.format(id=sandbox_id), key=key)

        return call

    return make


def registered(house: House) -> Call:
    return lambda: request(house.web, "POST", "/api/register", body={"name": "Ada", "email": address()})


CASES: dict[str, Callable[[House], Call]] = {
    "key check from the store (domain)": look_up,
    "list of sandboxes, 20 of 50 (domain)": listed,
    "GET /api/sandboxes?limit=20": requested("GET", "/api/sandboxes?limit=20"),
    "GET /api/sandboxes/ID": requested("GET", "/api/sandboxes/{id}"),
    "GET /api/orgs/apikeys, 50 of them": requested("GET", "/api/orgs/apikeys"),
    "POST /api/register": registered,
}


async def request(web: Starlette, method: str, target: str, *, key: str = "", body: object = None) -> None:
    """A request through the whole application that must succeed."""
    path, _, query = target.partition("?")
    headers = [(b"host", b"127.0.0.1:8080"), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*headers, (b"x-api-key", key.encode())] if key else headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "state": {},
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    await web(scope, receive, send)
    if not 200 <= sent[0]["status"] < 300:
        raise SystemExit(f"{method} {path}: {sent}")


def cuts(times: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    hundredths = quantiles(times, n=100)
    return hundredths[49] * 1000, hundredths[98] * 1000


def address() -> str:
    return f"{secrets.token_hex(8)}@example.org"


if __name__ == "__main__":
    anyio.run(main, backend_options={"use_uvloop": True})
