"""Tickets over REST: one-time credentials for the URL of a WebSocket, which no header can be added to in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from pydantic import Field

from auth.roles import Scope
from auth.tickets import LIFETIME_S
from mcp_server.wire import timestamp

from .body import WireModel, parse_body
from .contract import contract
from .endpoint import Endpoint
from .envelope import success
from .shapes.accounts import TicketObject
from .shapes.envelope import Enveloped

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from auth.authenticator import Verified
    from auth.principal import Principal
    from auth.tickets import Tickets

_MOST = 16 * 1024


class TicketRequest(WireModel):
    """What a ticket is for: the path of a WebSocket as in its URL, without a query; empty for all of them."""

    path: str = Field(default="", max_length=3000)


class TicketRoutes:
    """The route for tickets."""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets

    def endpoints(self) -> list[Endpoint]:
        """List the routes of this module."""
        path = "/api/tickets"
        return [Endpoint(method="POST", path=path, handler=self.create, scope=Scope.READ, action="ticket.create")]

    @contract(Enveloped[TicketObject], status=201, body=TicketRequest, refusals=(429,))
    async def create(self, request: Request, who: Principal) -> Response:
        """Create a ticket with the rights of the caller, for one WebSocket that is opened within half a minute."""
        del who
        wanted = await parse_body(request, TicketRequest, most=_MOST)
        verified: Verified = request.scope["state"]["verified"]
        made = self._tickets.issue(verified, unquote(wanted.path))
        content = TicketObject(ticket=made.text, expiresAt=timestamp(made.expires_ms), expiresInSeconds=LIFETIME_S)
        return success("Ticket created", content, status=201)
