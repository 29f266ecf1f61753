"""Registering over REST: open, by invitation, and no more often than allowed."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from auth.registration import RegistrationPolicy
from tests.auth.rig import Rig
from tests.mcp_server.rest.accounts import INVITATIONS, KEYS, call, client, operator_key

pytestmark = pytest.mark.anyio


async def test_registering_gives_a_user_an_organisation_and_a_key_that_works(rig: Rig) -> None:
    answer = await call(rig, "POST", "/api/register", name="Ada Lovelace", email="Ada@Example.org")
    assert answer.status_code == 201
    body = answer.json()
    assert (body["status"], body["message"], set(body)) == ("success", "User registered", {"status", "message", "data"})
    made = body["data"]
    assert set(made) == {"user", "org", "apiKey"}
    assert (made["user"]["name"], made["user"]["email"]) == ("Ada Lovelace", "ada@example.org")
    assert made["org"]["name"] == "Ada-Org"
    key: str = made["apiKey"]["plainKey"]
    me = (await call(rig, "GET", "/api/users/me", key=key)).json()
    assert me["id"] == made["user"]["id"]
    assert me["orgs"] == [{"id": made["org"]["id"], "name": "Ada-Org", "role": "owner"}]
    assert (me["orgId"], me["scopes"], me["operator"]) == (me["orgs"][0]["id"], ["admin", "read", "run"], False)
    again = await call(rig, "POST", "/api/register", name="Eve", email="ADA@example.org")
    assert again.status_code == 409
    listed = (await call(rig, "GET", KEYS, key=key)).text
    assert key not in listed
    assert key[:7] in listed


async def test_of_fifty_registrations_at_once_one_wins(rig: Rig) -> None:
    rig.limited["registrations_per_hour"] = 0
    rig.build()
    statuses: list[int] = []

    async def register(number: int) -> None:
        answer = await call(rig, "POST", "/api/register", name=f"User {number}", email="same@example.org")
        statuses.append(answer.status_code)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(register, number)
    assert sorted(statuses) == [201, *[409] * 49]


MEGABYTE = "x" * 1_000_000
NO_TEXTS: tuple[object, ...] = ("", " ", None, 7, [], {}, MEGABYTE, "a\0b", "\x1b")
BAD_FIELDS: list[tuple[str, object]] = [
    *((field, value) for field in ("name", "email") for value in NO_TEXTS if field == "email" or value),
    ("name", []),
    ("name", "x" * 101),
    ("name", "ada\N{RIGHT-TO-LEFT OVERRIDE}"),
    ("email", "аda@example.org"),  # noqa: RUF001 -- a Cyrillic letter
    ("organisation", "a\nb"),
    ("organisation", 7),
    ("invitation", 7),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
async def test_a_bad_field_of_a_registration_is_named(rig: Rig, field: str, value: object) -> None:
    body: dict[str, Any] = {"name": "Ada", "email": "ada@example.org", field: value}
    answer = await call(rig, "POST", "/api/register", **body)
    if isinstance(value, str) and len(value) > 100_000:
        assert answer.status_code == 413
    else:
        assert answer.status_code == 400
        assert field.removeprefix("org") in answer.json()["error"]
    assert len(answer.text) < 1000
    assert await rig.accounts.users.list() == []


async def test_a_name_that_is_not_given_is_that_of_the_address(rig: Rig) -> None:
    bodies: tuple[dict[str, Any], ...] = ({}, {"name": ""}, {"name": None})
    for number, fields in enumerate(bodies):
        answer = await call(rig, "POST", "/api/register", email=f"Ada.L{number}@example.org", **fields)
        assert answer.status_code == 201, answer.text
        made = answer.json()["data"]
        assert (made["user"]["name"], made["org"]["name"]) == (f"ada.l{number}", f"ada.l{number}-Org")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b'{"name": "Ada"}'])
async def test_a_body_that_says_too_little_is_refused(rig: Rig, content: bytes) -> None:
    async with client(rig) as opened:
        assert (await opened.post("/api/register", content=content)).status_code == 400


async def test_an_address_registers_a_few_times_an_hour(rig: Rig) -> None:
    rig.limited["registrations_per_hour"] = 2
    rig.build()
    first, second, third = [
        await call(rig, "POST", "/api/register", name="U", email=f"user{number}@example.org") for number in range(3)
    ]
    assert (first.status_code, second.status_code, third.status_code) == (201, 201, 429)
    assert first.headers["ratelimit-remaining"] == "1"
    assert 0 < int(third.headers["retry-after"]) <= 3600
    rig.clocks.advance(3600)
    assert (await call(rig, "POST", "/api/register", name="U", email="user2@example.org")).status_code == 201


async def test_a_closed_server_says_so_and_an_invitation_opens_it(rig: Rig) -> None:
    person = {"name": "Ada", "email": "ada@example.org"}
    made = await call(rig, "POST", INVITATIONS, key=await operator_key(rig), email="ada@example.org")
    assert made.status_code == 201
    code: str = made.json()["data"]["code"]
    async with client(rig, policy=RegistrationPolicy.CLOSED) as opened:
        assert (await opened.post("/api/register", json={**person, "invitation": code})).status_code == 403
    async with client(rig, policy=RegistrationPolicy.INVITE) as opened:
        refused = [
            await opened.post("/api/register", json=person),
            await opened.post("/api/register", json={**person, "invitation": "ci_" + "A" * 43}),
        ]
        assert [answer.status_code for answer in refused] == [403, 403]
        assert (await opened.post("/api/register", json={**person, "invitation": code})).status_code == 201
        other = {"name": "Bob", "email": "bob@example.org", "invitation": code}
        answer = await opened.post("/api/register", json=other)
    assert answer.status_code == 403
    assert code not in answer.text
