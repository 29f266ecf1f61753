"""The caller of a tool, as the gate authenticated it; never taken from headers or arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp.server.auth.middleware.auth_context import get_access_token

from auth.claims import principal_of
from vmm.errors import InvalidInput

if TYPE_CHECKING:
    from auth.principal import Principal


def caller() -> Principal:
    """Return the principal of the current task's request.

    Raises:
        InvalidInput: Nobody is authenticated, which is only possible on a server without its gate.
    """
    principal = principal_of(get_access_token())
    if principal is None:
        raise InvalidInput("The call carries no identity", hint="Send an API key in the X-API-Key header")
    return principal
