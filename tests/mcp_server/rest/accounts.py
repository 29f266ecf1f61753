"""A server with the routes of accounts alone, behind the real gate on a real store, and people who call it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from auth.registration import RegistrationPolicy
from auth.users import User
from mcp_server.rest.accounts import AccountRoutes
from mcp_server.rest.endpoint import routes
from mcp_server.rest.keys import KeyRoutes
from mcp_server.rest.operator import OperatorRoutes
from tests.auth.rig import Rig
from tests.mcp_server.rest.described import Described

KEYS = "/api/orgs/apikeys"
USERS = "/api/orgs/users"
INVITATIONS = "/api/operator/invitations"
UNKNOWN = "f" * 24


@asynccontextmanager
async def client(
    rig: Rig, key: str = "", *, policy: RegistrationPolicy = RegistrationPolicy.OPEN
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a server; with a key, or without one for what is open."""
    accounts = AccountRoutes(rig.accounts, rig.registration(policy), rig.limits)
    keys = KeyRoutes(rig.keys, rig.accounts, clock=rig.clocks.epoch)
    operator = OperatorRoutes(rig.accounts, rig.invitations)
    behind = [*accounts.endpoints(), *keys.endpoints(), *operator.endpoints()]
    endpoints = behind if key else accounts.open_endpoints()
    app = Starlette(routes=routes(endpoints))
    described = Described(rig.gate(app) if key else app, endpoints)
    headers = {"x-api-key": key} if key else {}
    transport = httpx.ASGITransport(described, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://casemate", headers=headers) as opened:
        yield opened
    described.check()


async def call(rig: Rig, method: str, path: str, *, key: str = "", **body: Any) -> httpx.Response:
    """One call, with a key or without one."""
    async with client(rig, key) as opened:
        return await opened.request(method, path, json=body) if body else await opened.request(method, path)


async def registered(rig: Rig, name: str = "ada") -> tuple[str, str, str]:
    """A new user's key, id and organisation."""
    answer = await call(rig, "POST", "/api/register", name=name.title(), email=f"{name}@example.org")
    assert answer.status_code == 201, answer.text
    made = answer.json()["data"]
    return made["apiKey"]["plainKey"], made["user"]["id"], made["org"]["id"]


async def member_of(rig: Rig, org_id: str, name: str = "bob") -> tuple[str, User]:
    """The key of a plain member of an organisation."""
    user, _ = await rig.user(name)
    await rig.join(user, org_id)
    return (await rig.key(user, org_id)).plain, user


async def operator_key(rig: Rig) -> str:
    """The key of a new user who is an operator."""
    user, org_id = await rig.user("root")
    await rig.accounts.users.make_operator(user.id)
    return (await rig.key(user, org_id)).plain
