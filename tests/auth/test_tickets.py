"""Tickets: once, for half a minute, for the path and with the rights of who asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from auth.api_key import NewKey
from auth.authenticator import Verified
from auth.credentials import Credential
from auth.errors import InvalidAccount, TooManyTickets
from auth.principal import Principal
from auth.tickets import LIFETIME_S, MOST_EACH, Tickets, is_ticket
from storage.errors import StoreUnavailable
from tests.auth.clocks import Clocks
from tests.auth.rig import Rig

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send
    from starlette.types import Scope as Connection

pytestmark = pytest.mark.anyio

PATH = "/api/sandboxes/box/pty"
ALICE = Verified(principal=Principal(org_id="a", user_id="alice", key_id="key-a"))
BOB = Verified(principal=Principal(org_id="b", user_id="bob"))


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def tickets(clocks: Clocks) -> Tickets:
    return Tickets(clocks.epoch)


def test_a_ticket_stands_for_its_caller_once(tickets: Tickets) -> None:
    made = tickets.issue(ALICE)
    assert is_ticket(made.text)
    assert made.text not in repr(made)
    assert tickets.redeem(made.text, PATH) is ALICE
    assert tickets.redeem(made.text, PATH) is None
    assert len(tickets) == 0


def test_a_ticket_expires(tickets: Tickets, clocks: Clocks) -> None:
    kept, late = tickets.issue(ALICE), tickets.issue(ALICE)
    assert kept.expires_ms == clocks.epoch() + LIFETIME_S * 1000
    clocks.advance(LIFETIME_S - 0.001)
    assert tickets.redeem(kept.text, PATH) is ALICE
    clocks.advance(0.001)
    assert tickets.redeem(late.text, PATH) is None
    assert len(tickets) == 0


def test_a_ticket_for_a_path_is_used_up_by_another(tickets: Tickets) -> None:
    assert tickets.redeem(tickets.issue(ALICE, PATH).text, PATH) is ALICE
    made = tickets.issue(ALICE, PATH)
    assert tickets.redeem(made.text, f"{PATH}/sessions/x") is None
    assert tickets.redeem(made.text, PATH) is None


@pytest.mark.parametrize("text", ["", "ct_", "ct_" + "A" * 43, "\ud800", "x" * 10_000])
def test_an_unknown_ticket_is_nobodys(tickets: Tickets, text: str) -> None:
    assert tickets.redeem(text.encode(errors="replace").decode(), PATH) is None


@pytest.mark.parametrize("path", ["x", "/health", "/api/sandboxes/box/pty?cols=80", "/api/" + "x" * 1000])
def test_a_path_that_is_none_is_refused(tickets: Tickets, path: str) -> None:
    with pytest.raises(InvalidAccount, match="path must be that of a WebSocket"):
        tickets.issue(ALICE, path)


def test_a_caller_has_only_so_many_unused_tickets_and_others_have_their_own(tickets: Tickets, clocks: Clocks) -> None:
    made = [tickets.issue(ALICE) for _ in range(MOST_EACH)]
    with pytest.raises(TooManyTickets, match=f"{MOST_EACH} unused tickets"):
        tickets.issue(ALICE)
    assert tickets.redeem(tickets.issue(BOB).text, PATH) is BOB
    assert tickets.redeem(made[0].text, PATH) is ALICE
    tickets.issue(ALICE)
    clocks.advance(LIFETIME_S)
    assert len([tickets.issue(ALICE) for _ in range(MOST_EACH)]) == len(tickets)


# Through the gate.


@pytest.fixture
async def made(rig: Rig) -> NewKey:
    user, org_id = await rig.user("ada")
    return await rig.key(user, org_id)


async def accept(scope: Connection, receive: Receive, send: Send) -> None:
    del receive
    await send({"type": "websocket.accept", "user": scope["state"]["principal"].user_id, "scope": dict(scope)})


async def handshake(rig: Rig, tickets: Tickets, query: str, *, path: str = PATH, key: str = "") -> Message:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x-api-key", key.encode())] if key else []
    scope: dict[str, Any] = {"type": "websocket", "path": path, "query_string": query.encode(), "headers": headers}
    await rig.gate(accept, tickets=tickets)(scope, receive, send)
    return sent[0]


async def verified(rig: Rig, key: NewKey) -> Verified:
    return await rig.authenticator.authenticate(Credential(key=key.plain))


async def test_a_socket_opens_with_a_ticket_that_nobody_behind_the_gate_sees(
    rig: Rig, made: NewKey, tickets: Tickets
) -> None:
    ticket = tickets.issue(await verified(rig, made), PATH).text
    accepted = await handshake(rig, tickets, f"cols=80&ticket={ticket}")
    assert accepted["user"] == made.record.created_by
    assert accepted["scope"]["query_string"] == b"cols=80"
    assert ticket not in repr(accepted["scope"])
    again = await handshake(rig, tickets, f"ticket={ticket}")
    assert again == {"type": "websocket.close", "code": 1008, "reason": "invalid ticket"}


async def test_a_ticket_of_a_key_that_was_revoked_since_opens_nothing(rig: Rig, made: NewKey, tickets: Tickets) -> None:
    ticket = tickets.issue(await verified(rig, made)).text
    await rig.keys.revoke(made.record.org_id, made.record.id)
    assert (await handshake(rig, tickets, f"ticket={ticket}"))["reason"] == "invalid ticket"


async def test_a_ticket_beside_a_key_is_one_credential_too_many(rig: Rig, made: NewKey, tickets: Tickets) -> None:
    ticket = tickets.issue(await verified(rig, made)).text
    refused = await handshake(rig, tickets, f"ticket={ticket}", key=made.plain)
    assert refused["reason"] == "provide either a ticket or a key, not both"
    assert (await handshake(rig, tickets, f"ticket={ticket}&ticket={ticket}"))["type"] == "websocket.close"


async def test_guessed_tickets_count_as_refused_credentials(rig: Rig, tickets: Tickets) -> None:
    rig.limited["refusals_per_minute"] = 2
    rig.build()
    for _ in range(2):
        await handshake(rig, tickets, "ticket=ct_" + "A" * 43)
    assert (await handshake(rig, tickets, "apiKey=cm_" + "A" * 43))["reason"].startswith("too many refused")


async def test_while_the_store_is_away_a_ticket_may_be_tried_again_with_a_new_one(
    rig: Rig, made: NewKey, tickets: Tickets
) -> None:
    ticket = tickets.issue(await verified(rig, made)).text
    rig.spies["api_keys"].failure = StoreUnavailable("away")
    assert (await handshake(rig, tickets, f"ticket={ticket}"))["reason"] == "tickets cannot be checked now"
