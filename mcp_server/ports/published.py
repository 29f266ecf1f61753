"""Publishing, listing and revoking ports, for all surfaces, and their shape on the wire."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mcp_server.wire import timestamp
from storage.shown import shown
from vmm.errors import InvalidInput, NotFound
from vmm.sandboxes.published import check_port, published_port, published_ports

from .access import PARAMETER, Access
from .tokens import Tokens
from .visitors import Visitors
from .visits import Visits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp

    from mcp_server.shapes import PortObject, PublicUrl
    from vmm.fleet import Fleet
    from vmm.sandboxes.published import PublishedPort
    from vmm.sandboxes.sandbox import Sandbox

    from .dial import Dial
    from .names import PortNames
    from .visitors import Recognise

DAY_S = 86_400
LONGEST_S = 30 * DAY_S
_SHORTEST_S = 60


class PublishedPorts:
    """The published ports of all sandboxes.

    Attributes:
        names: Their addresses.
        dial: The way to any port of a sandbox, published or not.

    Args:
        fleet: The running fleet.
        names: Builds and reads addresses.
        dial: Connects to ports.
        secret: Signs URLs and cookies.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        names: PortNames,
        dial: Dial,
        secret: bytes,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._fleet = fleet
        self._tokens = Tokens(secret)
        self._visits = Visits()
        self._clock = clock
        self.names = names
        self.dial = dial

    async def publish(self, owner: str, ref: str, port: int, *, public: bool = False, expires_s: int = 0) -> PortObject:
        """Publish a port, and return it with a URL that opens it; a private one has a signature that expires.

        Args:
            owner: The owner.
            ref: The sandbox's id or name.
            port: The TCP port of the guest.
            public: Whether everybody may open it.
            expires_s: Seconds until the URL stops working; 0 is a day for a private one, never for a public one.

        Raises:
            InvalidInput: A value is out of range.
            LimitExceeded: The sandbox has published as many ports as it may.
        """
        check_port(port)
        if expires_s and not _SHORTEST_S <= expires_s <= LONGEST_S:
            raise InvalidInput(
                f"expires must be from {_SHORTEST_S} s to 30 days, got {shown(expires_s)} s",
                hint="Leave it out for a day, or for no end of a public port",
            )
        now_s = self._clock() // 1000
        until_ms = (now_s + expires_s) * 1000 if public and expires_s else 0
        before = published_port(await self._fleet.sandboxes.get(owner, ref), port)
        sandbox, published = await self._fleet.ports.publish(owner, ref, port, public=public, until_ms=until_ms)
        if before is not None and before.public and (not public or until_ms):
            # Who came in while everybody could has to show a right again.
            self._visits.end(sandbox.id, port)
        if public:
            return self._shown(sandbox, published)
        until_s = now_s + (expires_s or DAY_S)
        token = self._tokens.sign("url", sandbox.id, published, expires_s=until_s)
        return {**self._shown(sandbox, published, f"?{PARAMETER}={token}"), "expiresAt": timestamp(until_s * 1000)}

    async def publish_only(self, owner: str, ref: str, ports: Sequence[int]) -> Sandbox:
        """Publish these ports and no others, and end the connections to those that are published no longer.

        Raises:
            InvalidInput: The list is too long, or has a port twice or that does not exist.
        """
        sandbox, ended = await self._fleet.ports.publish_only(owner, ref, ports)
        for port in ended:
            self._visits.end(sandbox.id, port)
        return sandbox

    async def unpublish(self, owner: str, ref: str, port: int) -> None:
        """Publish a port no longer, and end the connections to it.

        Raises:
            InvalidInput: There is no such port.
            NotFound: It is not published.
        """
        sandbox = await self._fleet.ports.unpublish(owner, ref, port)
        self._visits.end(sandbox.id, port)

    def of(self, sandbox: Sandbox) -> list[PortObject]:
        """Return a sandbox's published ports; the URLs have no signatures."""
        return [self._shown(sandbox, published) for published in published_ports(sandbox)]

    def openable(self, sandbox: Sandbox) -> list[PublicUrl]:
        """Return each published port with a URL that opens it in a browser; that of a private one works for a day."""
        until_s = self._clock() // 1000 + DAY_S
        shown_ports: list[PublicUrl] = []
        for published in published_ports(sandbox):
            url = self.names.url(sandbox.id, published.port)
            if published.is_public(self._clock()):
                shown_ports.append({"port": published.port, "url": url})
                continue
            token = self._tokens.sign("url", sandbox.id, published, expires_s=until_s)
            signed = f"{url}?{PARAMETER}={token}"
            shown_ports.append({"port": published.port, "url": signed, "expiresAt": timestamp(until_s * 1000)})
        return shown_ports

    def visitors(
        self, gate: Callable[[ASGIApp], ASGIApp], recognise: Recognise, *, sandboxed: bool = False
    ) -> Visitors:
        """Build the application that serves the ports.

        Args:
            gate: Wraps an application so that only requests with a valid credential reach it.
            recognise: Whether a bearer token is a credential of this server.
            sandboxed: Whether pages by path must not have the API's origin, because it needs no key.
        """
        access = Access(self._fleet.ports, self._tokens, clock=self._clock)
        return Visitors(
            access, self.dial, self._visits, gate=gate, recognise=recognise, find=self._find, sandboxed=sandboxed
        )

    async def _find(self, owner: str, ref: str, port: int) -> str:
        """Return the id of an owner's sandbox with a published port.

        Raises:
            NotFound: There is none.
        """
        sandbox = await self._fleet.sandboxes.get(owner, ref)
        if published_port(sandbox, port) is None:
            raise NotFound(f"Port {port} of sandbox {sandbox.id} is not published", hint="Publish it first")
        return sandbox.id

    def _shown(self, sandbox: Sandbox, published: PublishedPort, query: str = "") -> PortObject:
        port, public = published.port, published.is_public(self._clock())
        values: PortObject = {
            "port": port,
            "url": f"{self.names.url(sandbox.id, port)}{query}",
            "path": f"{self.names.path(sandbox.id, port)}{query}",
            "public": public,
        }
        if public and published.until_ms:
            values["expiresAt"] = timestamp(published.until_ms)
        return values
