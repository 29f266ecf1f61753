"""What is taken off a request, whatever it looks like."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from auth.credentials import take
from auth.refusal import Refused
from auth.tickets import is_ticket

KEY = "cm_" + "K" * 43
TICKET = "ct_" + "T" * 43
VALUES = st.sampled_from([b"", b" ", KEY.encode(), b"Bearer " + KEY.encode(), b"bearer", b"Basic x", b"\xff", b"7"])
NAMES = st.sampled_from([b"x-api-key", b"X-API-Key", b"authorization", b"x-org-id", b"accept"])
PIECES = st.sampled_from(
    [
        *("apiKey", "apikey", "api%4Bey", "apiKey%00", "ticket", "Ticke%74"),
        *("=", "&", "%26", "+", KEY, TICKET, "a", "%zz", "\\", ";"),
    ]
)


@given(
    st.sampled_from(["http", "websocket"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
    st.lists(PIECES, max_size=8),
    st.booleans(),
)
def test_no_key_stays_behind_and_nothing_else_goes(
    kind: str, headers: list[tuple[bytes, bytes]], pieces: list[str], query_keys: bool
) -> None:
    query = "".join(pieces)
    scope: dict[str, Any] = {"type": kind, "headers": headers, "query_string": query.encode()}
    try:
        credential = take(scope, query_keys=query_keys)
    except Refused as refusal:
        assert refusal.status == 400
        assert KEY not in f"{refusal.error} {refusal.details}"
    else:
        assert sum(map(bool, (credential.key, credential.bearer, credential.ticket))) <= 1
        assert not (credential.ticket and kind == "http")
        assert KEY not in repr(credential) and TICKET not in repr(credential)
    others = [pair for pair in headers if pair[0].lower() not in {b"x-api-key", b"authorization"}]
    assert scope["headers"] == others
    left = parse_qsl(scope["query_string"].decode(), keep_blank_values=True)
    assert left == [pair for pair in parse_qsl(query, keep_blank_values=True) if not _is_credential(*pair)]


def _is_credential(name: str, value: str) -> bool:
    called = name.strip().lower()
    return called == "apikey" or (called == "ticket" and is_ticket(value.strip()))
