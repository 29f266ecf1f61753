"""Routes for API keys, in VoidRun's format.

Callers with the scope admin see and change all keys of the organisation. Members never have that scope: they create and
delete their own keys, which can do no more than the member can.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from starlette.responses import JSONResponse

from auth.clock import Clock, now_ms
from auth.errors import Denied, KeyMissing, MemberMissing
from auth.roles import ALL_SCOPES, Role, Scope, expanded
from mcp_server.shapes import filled
from mcp_server.wire import timestamp
from vmm.errors import InvalidInput

from .body import WireModel, parse_body
from .contract import contract
from .endpoint import Endpoint
from .envelope import success
from .shapes.accounts import KeyObject, KeyTimes, NewKeyObject, ScopeName
from .shapes.envelope import Done

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.accounts import Accounts
    from auth.api_key import ApiKey, NewKey
    from auth.keys import KeyStore
    from auth.principal import Principal

_MOST = 16 * 1024
_MOST_SECONDS = 10 * 366 * 24 * 3600
_SHOWN = 80
_NEVER = "Never (until revoked)"
_ID = re.compile(r"[0-9a-f]{24}")
_ALL = "*"
"""VoidRun's word for all scopes."""


class KeyRequest(WireModel):
    """A key to create."""

    key_name: str
    expires_at: str = Field(default="", max_length=100)
    expires_in_seconds: int = Field(default=0, ge=0, le=_MOST_SECONDS)
    scopes: list[Literal["read", "run", "admin", "*"]] = Field(default=[], max_length=10)
    user_id: str = ""


class Activation(WireModel):
    """Whether a key is accepted."""

    is_active: bool


class KeyRoutes:
    """The keys of the caller's organisation."""

    def __init__(self, keys: KeyStore, accounts: Accounts, *, clock: Clock = now_ms) -> None:
        """Create the routes.

        Args:
            keys: The store.
            accounts: Looks up members, for keys that are created for somebody else.
            clock: Epoch milliseconds.
        """
        self._keys = keys
        self._accounts = accounts
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """List the routes that need a credential."""
        keys, one = "/api/orgs/apikeys", "/api/orgs/apikeys/{key_id}"
        run = Scope.RUN
        return [
            Endpoint(method="GET", path=keys, handler=self.list, scope=Scope.READ, action="key.list"),
            Endpoint(method="POST", path=keys, handler=self.create, scope=run, action="key.create"),
            Endpoint(method="DELETE", path=one, handler=self.delete, scope=run, action="key.delete"),
            Endpoint(method="POST", path=f"{one}/activate", handler=self.activate, scope=run, action="key.activate"),
            Endpoint(method="PATCH", path=f"{one}/touch", handler=self.touch, scope=run, action="key.touch"),
        ]

    @contract(list[KeyObject])
    async def list(self, request: Request, who: Principal) -> Response:
        """List the organisation's keys; without the scope admin only the caller's own."""
        found = await self._keys.list(who.org_id)
        mine = [key for key in found if who.may(Scope.ADMIN) or key.created_by == who.user_id]
        return JSONResponse([key_object(key) for key in mine])

    @contract(NewKeyObject, body=KeyRequest, refusals=(404, 409), yields={"key_id": "/keyId"})
    async def create(self, request: Request, who: Principal) -> Response:
        """Create a key. The status is 200, not 201, because VoidRun's Python client accepts only that."""
        wanted = await parse_body(request, KeyRequest, most=_MOST)
        _may_manage(who)
        made = await self._keys.create(
            org_id=who.org_id,
            created_by=await self._holder(wanted.user_id, who),
            name=wanted.key_name,
            expires_ms=self._expiry(wanted),
            scopes=_scopes(wanted, who),
            within=who.scopes,
        )
        return JSONResponse(new_key_object(made))

    @contract(Done)
    async def delete(self, request: Request, who: Principal) -> Response:
        """Delete a key."""
        key = await self._managed(request, who)
        await self._keys.delete(who.org_id, key.id)
        return success("API key revoked")

    @contract(Done, body=Activation)
    async def activate(self, request: Request, who: Principal) -> Response:
        """Switch a key on or off."""
        wanted = await parse_body(request, Activation, most=_MOST)
        key = await self._managed(request, who)
        await self._keys.set_active(who.org_id, key.id, active=wanted.is_active)
        return success("API key activated" if wanted.is_active else "API key deactivated")

    @contract(Done)
    async def touch(self, request: Request, who: Principal) -> Response:
        """Record that a key was used now."""
        key = await self._managed(request, who)
        await self._keys.touch(who.org_id, key.id)
        return success("API key touched")

    async def _managed(self, request: Request, who: Principal) -> ApiKey:
        """Find the key of the path, if the caller may change it; other members' keys look as if they did not exist."""
        _may_manage(who)
        key_id: str = request.path_params["key_id"]
        if not _ID.fullmatch(key_id):
            raise InvalidInput("Invalid key ID format", hint=f"{key_id[:_SHOWN]!a} is not 24 hex digits: list the keys")
        key = await self._keys.get(who.org_id, key_id)
        if not who.may(Scope.ADMIN) and key.created_by != who.user_id:
            raise KeyMissing("API key not found", details=f"You have no key {key_id}: list your keys")
        return key

    async def _holder(self, user_id: str, who: Principal) -> str:
        """Determine for whom to create a key: the caller, or a member named by an administrator."""
        if user_id in {"", who.user_id}:
            return who.user_id
        if not who.may(Scope.ADMIN):
            raise Denied("userId is another member: creating keys for others needs the scope admin")
        if await self._accounts.standing(who.org_id, user_id) is None:
            raise MemberMissing(f"userId {user_id[:_SHOWN]!a}: the organisation has no such member; list its users")
        return user_id

    def _expiry(self, wanted: KeyRequest) -> int:
        """Determine when a key expires, in epoch milliseconds; 0 for never."""
        if wanted.expires_at and wanted.expires_in_seconds:
            raise InvalidInput("expiresAt and expiresInSeconds are both given", hint="Give one of them")
        if wanted.expires_in_seconds:
            return self._clock() + wanted.expires_in_seconds * 1000
        if not wanted.expires_at:
            return 0
        how = f"Give a future time within {_MOST_SECONDS} s, such as 2030-01-31T12:00:00Z"
        try:
            moment = datetime.fromisoformat(wanted.expires_at)
        except ValueError:
            raise InvalidInput(f"expiresAt={wanted.expires_at[:_SHOWN]!a} is not a valid time", hint=how) from None
        if moment.tzinfo is None:
            raise InvalidInput(f"expiresAt={wanted.expires_at[:_SHOWN]!a} has no time zone", hint=how)
        expires_ms = int(moment.timestamp() * 1000)
        if not self._clock() < expires_ms <= self._clock() + _MOST_SECONDS * 1000:
            raise InvalidInput(f"expiresAt={wanted.expires_at[:_SHOWN]!a} is out of range", hint=how)
        return expires_ms


def key_object(key: ApiKey) -> KeyObject:
    """Convert a key to its JSON form; a time of last use or expiry that it does not have is left out."""
    times: KeyTimes = {"expiresAt": _moment(key.expires_ms), "lastUsedAt": _moment(key.last_used_ms)}
    return {
        "id": key.id,
        "orgId": key.org_id,
        "name": key.name,
        "maskedKey": key.masked,
        "scopes": _named(key.scopes),
        "createdBy": key.created_by,
        "createdAt": timestamp(key.created_ms),
        "updatedAt": timestamp(key.updated_ms or key.created_ms),
        "isActive": key.is_active,
        **filled(times),
    }


def new_key_object(made: NewKey) -> NewKeyObject:
    """Convert a new key to its JSON form, with its secret: the only time that it is shown."""
    key = made.record
    shown: NewKeyObject = {
        "plainKey": made.plain,
        "keyId": key.id,
        "keyName": key.name,
        "orgId": key.org_id,
        "createdAt": timestamp(key.created_ms),
        "expiresIn": _span(key.expires_ms - key.created_ms) if key.expires_ms else _NEVER,
        "scopes": _named(key.scopes),
    }
    if key.expires_ms:
        shown["expiresAt"] = timestamp(key.expires_ms)
    return shown


def _may_manage(who: Principal) -> None:
    # An owner who created a key without `admin` did so to keep it from creating more keys.
    if not who.may(Scope.ADMIN) and who.role is not Role.MEMBER:
        held = ", ".join(sorted(who.scopes)) or "none"
        raise Denied(f"This needs the scope admin; the credential has {held}")


def _scopes(wanted: KeyRequest, who: Principal) -> frozenset[Scope]:
    """Determine the scopes of a new key: by default those of its creator."""
    if not wanted.scopes or "*" in wanted.scopes:
        return expanded(who.scopes)
    return frozenset(Scope(scope) for scope in wanted.scopes)


def _named(scopes: frozenset[Scope]) -> list[ScopeName]:
    return [_ALL] if expanded(scopes) == ALL_SCOPES else [scope.value for scope in Scope if scope in scopes]


def _moment(milliseconds: int) -> str:
    return timestamp(milliseconds) if milliseconds else ""


def _span(milliseconds: int) -> str:
    """Format a duration for people, such as `30 days`."""
    seconds = round(milliseconds / 1000)
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"
