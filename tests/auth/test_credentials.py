"""What is taken off a request, whatever it looks like."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from auth.credentials import take
from auth.refusal import Refused

KEY = "cm_" + "K" * 43
VALUES = st.sampled_from([b"", b" ", KEY.encode(), b"Bearer " + KEY.encode(), b"bearer", b"Basic x", b"\xff", b"7"])
NAMES = st.sampled_from([b"x-api-key", b"X-API-Key", b"authorization", b"x-org-id", b"accept"])
PIECES = st.sampled_from(
    ["apiKey", "apikey", "api%4Bey", "apiKey%00", "=", "&", "%26", "+", KEY, "a", "%zz", "\\", ";"]
)


@given(
    st.sampled_from(["http", "websocket"]), st.lists(st.tuples(NAMES, VALUES), max_size=4), st.lists(PIECES, max_size=8)
)
def test_no_key_stays_behind_and_nothing_else_goes(
    kind: str, headers: list[tuple[bytes, bytes]], pieces: list[str]
) -> None:
    query = "".join(pieces)
    scope: dict[str, Any] = {"type": kind, "headers": headers, "query_string": query.encode()}
    try:
        credential = take(scope)
    except Refused as refusal:
        assert refusal.status == 400
        assert KEY not in f"{refusal.error} {refusal.details}"
    else:
        assert not (credential.key and credential.bearer)
        assert KEY not in repr(credential)
    others = [pair for pair in headers if pair[0].lower() not in {b"x-api-key", b"authorization"}]
    assert scope["headers"] == others
    left = parse_qsl(scope["query_string"].decode(), keep_blank_values=True)
    assert all(name.strip().lower() != "apikey" for name, _ in left)
    assert left == [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0].strip().lower() != "apikey"]
