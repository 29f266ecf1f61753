"""Extraction of the credential from a request, so that nothing behind the gate can log or repeat it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from .refusal import Refused
from .tickets import is_ticket

if TYPE_CHECKING:
    from starlette.types import Scope

_KEY = b"x-api-key"
_BEARER = b"authorization"
_ORGANISATION = b"x-org-id"
HOW = "Send the key in the header X-API-Key, or as Authorization: Bearer"
_HOW_ON_HTTP = f"{HOW}; apiKey in the URL works for WebSockets only, unless the operator sets CASEMATE_QUERY_KEYS=true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The credential of a request.

    Attributes:
        key: The value of X-API-Key, or of `apiKey` in the URL where that counts; empty if missing.
        bearer: A key or a token from Authorization; empty if missing.
        ticket: The value of `ticket` in the URL of a WebSocket; empty if missing.
        org_id: The value of X-Org-ID, for tokens.
        hint: How to send a credential, for the error message of a request without one.
    """

    key: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    ticket: str = field(default="", repr=False)
    org_id: str = field(default="", repr=False)
    hint: str = HOW

    @property
    def text(self) -> str:
        """The key or token; empty if the request has none."""
        return self.key or self.bearer


def take(scope: Scope, *, query_keys: bool = False) -> Credential:
    """Remove the credential from a request or a WebSocket's handshake, and return it.

    An empty header counts as none: clients send it when their configuration names an unset variable.

    Args:
        scope: The request.
        query_keys: Whether `apiKey` in the URL counts for all requests, and not for WebSockets alone.

    Raises:
        Refused: The request has two credentials. They are removed nevertheless.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    found: dict[bytes, list[str]] = {_KEY: [], _BEARER: [], _ORGANISATION: []}
    for name, value in headers:
        values = found.get(name.lower())
        if values is not None:
            values.append(value.strip().decode("latin-1"))
    if found[_KEY] or found[_BEARER]:
        scope["headers"] = [pair for pair in headers if pair[0].lower() not in {_KEY, _BEARER}]
    in_address, tickets = _from_address(scope)
    socket = scope["type"] == "websocket"
    keys, bearers, organisations = found[_KEY], found[_BEARER], found[_ORGANISATION]
    if socket or query_keys:
        keys = [*keys, *in_address]
    if not socket:
        tickets = []
    given = (("X-API-Key", keys), ("Authorization", bearers), ("X-Org-ID", organisations), ("ticket", tickets))
    for name, values in given:
        if len(values) > 1:
            raise Refused(status=400, reason="twice", error=f"{name} was sent more than once", details=HOW)
    scheme, _, token = bearers[0].partition(" ") if bearers else ("", "", "")
    credential = Credential(
        key=keys[0] if keys else "",
        bearer=token.strip() if scheme.lower() == "bearer" else "",
        ticket=tickets[0] if tickets else "",
        org_id=organisations[0] if organisations else "",
        hint=_HOW_ON_HTTP if in_address and not socket else HOW,
    )
    if credential.key and credential.bearer:
        raise Refused(
            status=400, reason="both", error="provide either X-API-Key or Bearer token, not both", details=HOW
        )
    if credential.ticket and credential.text:
        raise Refused(status=400, reason="both", error="provide either a ticket or a key, not both", details=HOW)
    return credential


def _from_address(scope: Scope) -> tuple[list[str], list[str]]:
    """Remove `apiKey` and `ticket` from the query, and return the keys and the tickets.

    A `ticket` that does not look like one of ours belongs to somebody else, such as the server of a published port.
    """
    query: bytes = scope.get("query_string", b"")
    kept: list[bytes] = []
    keys: list[str] = []
    tickets: list[str] = []
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        text = unquote_to_bytes(value).strip().decode("latin-1")
        # However the name is spelled or encoded, its value may be a key, which must not get further.
        match unquote_to_bytes(name.replace(b"+", b" ")).strip().lower():
            case b"apikey":
                keys.append(text)
            case b"ticket" if is_ticket(text):
                tickets.append(text)
            case _:
                kept.append(pair)
    if keys or tickets:
        scope["query_string"] = b"&".join(kept)
    return keys, tickets
