"""Routes for accounts: registration, the caller's account, and the members of the organisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from starlette.responses import JSONResponse

from auth.address import address_of
from auth.errors import MemberMissing
from auth.roles import Role, Scope
from mcp_server.wire import timestamp

from ..http.problem import problem
from .body import WireModel, parse_body
from .contract import contract
from .endpoint import Endpoint
from .envelope import success
from .keys import new_key_object
from .shapes.accounts import AccountObject, MemberObject, Registered, RoleObject, UserObject
from .shapes.envelope import Done, Enveloped

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.accounts import Accounts
    from auth.limits import Limits
    from auth.organisations import Member
    from auth.principal import Principal
    from auth.registration import Registration
    from auth.users import User

_MOST = 16 * 1024


class RegistrationRequest(WireModel):
    """A request to register."""

    redacted: ClassVar[frozenset[str]] = frozenset({"invitation"})

    name: str = Field(default="", max_length=400)
    email: str
    invitation: str = ""
    organisation: str = Field(default="", max_length=400)


class NewMember(WireModel):
    """The user to add to the organisation."""

    email: str
    role: Literal["owner", "member"] = "member"


class RoleChange(WireModel):
    """The new role of a member."""

    role: Literal["owner", "member"]


class AccountRoutes:
    """Registration, the caller's own account, and the members of the caller's organisation."""

    def __init__(self, accounts: Accounts, registration: Registration, limits: Limits) -> None:
        """Create the routes.

        Args:
            accounts: Users and organisations.
            registration: Registers and removes users.
            limits: Limits the registrations from one address.
        """
        self._accounts = accounts
        self._registration = registration
        self._limits = limits

    def open_endpoints(self) -> list[Endpoint]:
        """List the routes that need no credential."""
        return [
            Endpoint(
                method="POST",
                path="/api/register",
                handler=self.register,
                scope=None,
                action="account.register",
                open=True,
            )
        ]

    def endpoints(self) -> list[Endpoint]:
        """List the routes that need a credential."""
        users, one = "/api/orgs/users", "/api/orgs/users/{user_id}"
        admin = Scope.ADMIN
        return [
            Endpoint(method="GET", path="/api/users/me", handler=self.me, scope=Scope.READ, action="account.me"),
            Endpoint(method="GET", path=users, handler=self.members, scope=Scope.READ, action="member.list"),
            Endpoint(method="POST", path=users, handler=self.add, scope=admin, action="member.add"),
            Endpoint(method="PATCH", path=one, handler=self.change, scope=admin, action="member.change"),
            Endpoint(method="DELETE", path=one, handler=self.remove, scope=admin, action="member.remove"),
        ]

    @contract(Enveloped[Registered], status=201, body=RegistrationRequest, refusals=(403, 409, 429))
    async def register(self, request: Request, who: Principal) -> Response:
        """Create a user, an organisation and a first key; only this answer shows the key."""
        allowance = await self._limits.register(address_of(request.scope))
        headers = {name.decode(): value.decode() for name, value in allowance.headers()}
        if not allowance.passed:
            request.scope.setdefault("state", {})["refusal"] = "too many registrations"
            answer = problem(429, "too many registrations from this address", f"Wait {allowance.reset_s} s")
            answer.headers.update({**headers, "retry-after": str(allowance.reset_s)})
            return answer
        wanted = await parse_body(request, RegistrationRequest, most=_MOST)
        made = await self._registration.register(
            name=wanted.name, email=wanted.email, invitation=wanted.invitation, organisation=wanted.organisation
        )
        content: Registered = {
            "user": user_object(made.user),
            "org": {"id": made.organisation.id, "name": made.organisation.name},
            "apiKey": new_key_object(made.key),
        }
        answer = success("User registered", content, status=201)
        answer.headers.update(headers)
        return answer

    @contract(AccountObject, refusals=(404,))
    async def me(self, request: Request, who: Principal) -> Response:
        """Return the caller's account, its organisations, and what the credential allows."""
        user = await self._accounts.users.get(who.user_id)
        if user is None:
            raise MemberMissing("the user of this credential no longer exists")
        organisations = await self._accounts.organisations.of_user(user.id)
        content: AccountObject = {
            **user_object(user),
            "orgs": [{"id": it.id, "name": it.name, "role": it.members[user.id].role} for it in organisations],
            "orgId": who.org_id,
            "role": who.role,
            "scopes": sorted(who.scopes),
            "operator": who.operator,
            "method": who.method,
        }
        return JSONResponse(content)

    @contract(Enveloped[list[MemberObject]])
    async def members(self, request: Request, who: Principal) -> Response:
        """List the members of the organisation."""
        found = await self._accounts.members(who.org_id)
        return success("users", [member_object(member, user) for member, user in found])

    @contract(Enveloped[MemberObject], status=201, body=NewMember, refusals=(404, 409))
    async def add(self, request: Request, who: Principal) -> Response:
        """Add a registered user to the organisation."""
        wanted = await parse_body(request, NewMember, most=_MOST)
        member, user = await self._accounts.add_member(who.org_id, wanted.email, Role(wanted.role))
        return success("user added", member_object(member, user), status=201)

    @contract(Enveloped[RoleObject], body=RoleChange, refusals=(404, 409))
    async def change(self, request: Request, who: Principal) -> Response:
        """Make a member an owner, or an owner a member."""
        wanted = await parse_body(request, RoleChange, most=_MOST)
        user_id: str = request.path_params["user_id"]
        member = await self._accounts.organisations.set_role(who.org_id, user_id, Role(wanted.role))
        return success("user updated", {"id": member.user_id, "role": member.role})

    @contract(Done, refusals=(404, 409))
    async def remove(self, request: Request, who: Principal) -> Response:
        """End a membership; the user's keys for the organisation stay invalid, even if the user is added again."""
        await self._registration.remove_member(who.org_id, request.path_params["user_id"])
        return success("user removed")


def user_object(user: User) -> UserObject:
    """Convert a user to its JSON form."""
    created = timestamp(user.created_ms)
    return {"id": user.id, "name": user.name, "email": user.email, "imageUrl": "", "createdAt": created}


def member_object(member: Member, user: User) -> MemberObject:
    """Convert a member to its JSON form."""
    return {**user_object(user), "role": member.role}
