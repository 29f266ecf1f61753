"""Routes for who runs the server: invitations to register, and the users. Others do not learn that they exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from starlette.exceptions import HTTPException

from auth.errors import MemberMissing
from auth.invitations import LIFETIME_MS
from auth.roles import Role, Scope
from mcp_server.wire import timestamp

from .accounts import user_object
from .body import WireModel, parse_body, parse_query
from .endpoint import Endpoint, Handler
from .envelope import success

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.accounts import Accounts
    from auth.invitations import Invitation, Invitations
    from auth.principal import Principal

_MOST = 16 * 1024
_MOST_SECONDS = 365 * 24 * 3600


class InvitationRequest(WireModel):
    """An invitation to be made."""

    email: str = ""
    expires_in_seconds: int = Field(default=LIFETIME_MS // 1000, ge=1, le=_MOST_SECONDS)
    org_id: str = ""
    role: Literal["owner", "member"] = "member"


class PageQuery(WireModel):
    """Which part of a list."""

    after: str = Field(default="", max_length=100)
    limit: int = Field(default=1000, ge=1, le=1000)


class OperatorRoutes:
    """Invitations and users of the whole server."""

    def __init__(self, accounts: Accounts, invitations: Invitations) -> None:
        """Routes over the stores.

        Args:
            accounts: All users.
            invitations: All invitations.
        """
        self._accounts = accounts
        self._invitations = invitations

    def endpoints(self) -> list[Endpoint]:
        """What belongs behind the gate."""
        invitations = "/api/operator/invitations"
        return [
            operator_endpoint("POST", invitations, self.invite, "invitation.create"),
            operator_endpoint("GET", invitations, self.invited, "invitation.list"),
            operator_endpoint("DELETE", f"{invitations}/{{invitation_id}}", self.revoke, "invitation.revoke"),
            operator_endpoint("GET", "/api/operator/users", self.users, "user.list"),
        ]

    async def invite(self, request: Request, who: Principal) -> Response:
        """Make an invitation; its code is in this answer alone."""
        wish = await parse_body(request, InvitationRequest, most=_MOST)
        if wish.org_id and await self._accounts.organisations.get(wish.org_id) is None:
            raise MemberMissing(f"orgId {wish.org_id[:80]!a}: there is no such organisation")
        made = await self._invitations.create(
            created_by=who.user_id,
            email=wish.email,
            org_id=wish.org_id,
            role=Role(wish.role),
            lifetime_ms=wish.expires_in_seconds * 1000,
        )
        return success("invitation created", {**invitation_object(made.record), "code": made.code}, status=201)

    async def invited(self, request: Request, who: Principal) -> Response:
        """Invitations, newest first."""
        limit = parse_query(request, PageQuery).limit
        found = await self._invitations.list(limit=limit)
        return success("invitations", [invitation_object(it) for it in found])

    async def revoke(self, request: Request, who: Principal) -> Response:
        """Remove an invitation."""
        await self._invitations.revoke(request.path_params["invitation_id"])
        return success("invitation revoked")

    async def users(self, request: Request, who: Principal) -> Response:
        """Users, oldest first; `after` is the id of the last one of the page before."""
        query = parse_query(request, PageQuery)
        after = await self._accounts.users.get(query.after) if query.after else None
        if query.after and after is None:
            raise MemberMissing(f"after={query.after!a}: there is no such user")
        found = await self._accounts.users.list(after=after, limit=query.limit)
        return success("users", [{**user_object(user), "operator": user.operator} for user in found])


def invitation_object(invitation: Invitation) -> dict[str, Any]:
    """An invitation on the wire, without its code."""
    used = {"usedBy": invitation.used_by, "usedAt": timestamp(invitation.used_ms)} if invitation.used_by else {}
    return {
        "id": invitation.id,
        "email": invitation.email,
        "orgId": invitation.org_id,
        "role": invitation.role,
        "createdBy": invitation.created_by,
        "createdAt": timestamp(invitation.created_ms),
        "expiresAt": timestamp(invitation.expires_ms),
        "used": bool(invitation.used_by),
        **used,
    }


def operator_endpoint(method: str, path: str, handler: Handler, action: str) -> Endpoint:
    """An endpoint for the operator alone; to others it is not there."""

    async def guarded(request: Request, who: Principal) -> Response:
        if not who.operator:
            raise HTTPException(404, "Not Found")
        return await handler(request, who)

    return Endpoint(method=method, path=path, handler=guarded, scope=Scope.ADMIN, action=action)
