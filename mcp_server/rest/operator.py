"""Routes for the operator: invitations to register, and the users. Other callers get 404."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from starlette.exceptions import HTTPException

from auth.errors import MemberMissing
from auth.invitations import LIFETIME_MS
from auth.roles import Role, Scope
from mcp_server.wire import timestamp

from .accounts import user_object
from .body import WireModel, parse_body, parse_query
from .contract import contract
from .endpoint import Endpoint, Handler
from .envelope import success
from .shapes.accounts import InvitationObject, NewInvitation, OperatorUser
from .shapes.envelope import Done, Enveloped

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.accounts import Accounts
    from auth.invitations import Invitation, Invitations
    from auth.principal import Principal

_MOST = 16 * 1024
_MOST_SECONDS = 365 * 24 * 3600


class InvitationRequest(WireModel):
    """An invitation to create."""

    email: str = ""
    expires_in_seconds: int = Field(default=LIFETIME_MS // 1000, ge=1, le=_MOST_SECONDS)
    org_id: str = ""
    role: Literal["owner", "member"] = "member"


class PageQuery(WireModel):
    """The part of a list to return."""

    after: str = Field(default="", max_length=100)
    limit: int = Field(default=1000, ge=1, le=1000)


class OperatorRoutes:
    """Invitations and users of the whole server."""

    def __init__(self, accounts: Accounts, invitations: Invitations) -> None:
        """Create the routes.

        Args:
            accounts: All users.
            invitations: All invitations.
        """
        self._accounts = accounts
        self._invitations = invitations

    def endpoints(self) -> list[Endpoint]:
        """List the routes that need a credential."""
        invitations = "/api/operator/invitations"
        return [
            operator_endpoint("POST", invitations, self.invite, "invitation.create"),
            operator_endpoint("GET", invitations, self.invited, "invitation.list"),
            operator_endpoint("DELETE", f"{invitations}/{{invitation_id}}", self.revoke, "invitation.revoke"),
            operator_endpoint("GET", "/api/operator/users", self.users, "user.list"),
        ]

    @contract(
        Enveloped[NewInvitation],
        status=201,
        body=InvitationRequest,
        refusals=(404, 409),
        yields={"invitation_id": "/data/id"},
    )
    async def invite(self, request: Request, who: Principal) -> Response:
        """Create an invitation; only this answer shows its code."""
        wanted = await parse_body(request, InvitationRequest, most=_MOST)
        if wanted.org_id and await self._accounts.organisations.get(wanted.org_id) is None:
            raise MemberMissing(f"orgId {wanted.org_id[:80]!a}: there is no such organisation")
        made = await self._invitations.create(
            created_by=who.user_id,
            email=wanted.email,
            org_id=wanted.org_id,
            role=Role(wanted.role),
            lifetime_ms=wanted.expires_in_seconds * 1000,
        )
        return success("invitation created", {**invitation_object(made.record), "code": made.code}, status=201)

    @contract(Enveloped[list[InvitationObject]], query=PageQuery, refusals=(404,))
    async def invited(self, request: Request, who: Principal) -> Response:
        """List invitations, newest first."""
        limit = parse_query(request, PageQuery).limit
        found = await self._invitations.list(limit=limit)
        return success("invitations", [invitation_object(it) for it in found])

    @contract(Done)
    async def revoke(self, request: Request, who: Principal) -> Response:
        """Delete an invitation."""
        await self._invitations.revoke(request.path_params["invitation_id"])
        return success("invitation revoked")

    @contract(Enveloped[list[OperatorUser]], query=PageQuery, refusals=(404,))
    async def users(self, request: Request, who: Principal) -> Response:
        """List users, oldest first; `after` is the id of the last one of the previous page."""
        query = parse_query(request, PageQuery)
        after = await self._accounts.users.get(query.after) if query.after else None
        if query.after and after is None:
            raise MemberMissing(f"after={query.after!a}: there is no such user")
        found = await self._accounts.users.list(after=after, limit=query.limit)
        return success("users", [{**user_object(user), "operator": user.operator} for user in found])


def invitation_object(invitation: Invitation) -> InvitationObject:
    """Convert an invitation to its JSON form, without its code."""
    shown: InvitationObject = {
        "id": invitation.id,
        "email": invitation.email,
        "orgId": invitation.org_id,
        "role": invitation.role,
        "createdBy": invitation.created_by,
        "createdAt": timestamp(invitation.created_ms),
        "expiresAt": timestamp(invitation.expires_ms),
        "used": bool(invitation.used_by),
    }
    if invitation.used_by:
        shown["usedBy"] = invitation.used_by
        shown["usedAt"] = timestamp(invitation.used_ms)
    return shown


def operator_endpoint(method: str, path: str, handler: Handler, action: str) -> Endpoint:
    """Declare an endpoint that only the operator may call; others get 404."""

    @wraps(handler)
    async def guarded(request: Request, who: Principal) -> Response:
        if not who.operator:
            raise HTTPException(404, "Not Found")
        return await handler(request, who)

    return Endpoint(method=method, path=path, handler=guarded, scope=Scope.ADMIN, action=action)
