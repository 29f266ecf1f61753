"""Published ports of a sandbox: values of its record, one for each port."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from storage.shown import shown

from ..errors import InvalidInput, LimitExceeded, NotFound
from .sandbox import Sandbox

MOST = 16
"""Published ports of one sandbox."""
MOST_LISTED = 4
"""Ports in one list of a request, as in VoidRun."""

Protocol = Literal["http", "tcp"]
"""What a client says that its port speaks. It is kept and shown, and changes nothing."""

_FORM = re.compile(r"(private|public) ([0-9a-f]{16}) ([0-9]{1,15})( tcp)?")
_NONCE_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port that may be opened from outside.

    Attributes:
        port: The TCP port of the guest.
        nonce: Random, new with each publication and part of its signed URLs, so that revoked ones stay revoked.
        public: Whether everybody may open it, not only who has a key or a signed URL.
        until_ms: When it stops being public; 0 is never.
        protocol: What its publisher says that it speaks.
    """

    port: int
    nonce: str = field(default_factory=lambda: secrets.token_hex(_NONCE_BYTES))
    public: bool = False
    until_ms: int = 0
    protocol: Protocol = "http"

    def is_public(self, now_ms: int) -> bool:
        """Return whether everybody may open it now."""
        return self.public and (not self.until_ms or now_ms < self.until_ms)

    def text(self) -> str:
        """Return the value for the sandbox's record."""
        kind, suffix = "public" if self.public else "private", " tcp" if self.protocol == "tcp" else ""
        return f"{kind} {self.nonce} {self.until_ms}{suffix}"

    @classmethod
    def read(cls, port: str, text: str) -> Self | None:
        """Read an entry of a sandbox's record; None if a later release wrote it in a form of its own."""
        found = _FORM.fullmatch(text)
        if found is None or not port.isdecimal():
            return None
        return cls(
            port=int(port),
            public=found[1] == "public",
            nonce=found[2],
            until_ms=int(found[3]),
            protocol="tcp" if found[4] else "http",
        )


def check_port(port: int, *, name: str = "port") -> int:
    """Validate a TCP port.

    Args:
        port: The port.
        name: The field's name in the error message.

    Raises:
        InvalidInput: It is not from 1 to 65535.
    """
    if not 1 <= port <= 65535:
        raise InvalidInput(f"{name} must be from 1 to 65535, got {shown(port)}")
    return port


def check_listed(ports: Sequence[int], *, name: str) -> None:
    """Validate a list of ports to publish.

    Args:
        ports: The ports.
        name: The field's name in the error message.

    Raises:
        InvalidInput: There are more than four, one is there twice, or one is not from 1 to 65535.
    """
    if len(ports) > MOST_LISTED:
        raise InvalidInput(f"{name} must be at most {MOST_LISTED} ports, got {len(ports)}")
    for port in ports:
        check_port(port, name=name)
    if len(set(ports)) < len(ports):
        twice = next(port for port in ports if ports.count(port) > 1)
        raise InvalidInput(f"{name} must have each port once, got {twice} more than once")


def new_entries(ports: Mapping[int, Protocol]) -> dict[str, str]:
    """Return the entries of a new sandbox's record for ports that are published, privately, from its start."""
    return {str(port): PublishedPort(port=port, protocol=protocol).text() for port, protocol in ports.items()}


def published_ports(sandbox: Sandbox) -> tuple[PublishedPort, ...]:
    """Return a sandbox's published ports, the lowest first."""
    found = (PublishedPort.read(port, text) for port, text in sandbox.published.items())
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.port))


def published_port(sandbox: Sandbox, port: int) -> PublishedPort | None:
    """Return one published port of a sandbox; None if it is not published."""
    text = sandbox.published.get(str(port))
    return None if text is None else PublishedPort.read(str(port), text)


def with_port(sandbox: Sandbox, wanted: PublishedPort) -> Sandbox:
    """Return the sandbox with one more published port; one that is published keeps its nonce and protocol.

    Raises:
        LimitExceeded: It has as many as a sandbox may have.
    """
    known = published_port(sandbox, wanted.port)
    if known is not None:
        wanted = replace(wanted, nonce=known.nonce, protocol=known.protocol)
    entries: Mapping[str, str] = {**sandbox.published, str(wanted.port): wanted.text()}
    if len(entries) > MOST:
        ports = ", ".join(sorted(sandbox.published, key=lambda port: port.zfill(5)))
        raise LimitExceeded(
            f"Sandbox {sandbox.id} has published {MOST} ports, as many as it may: {ports}",
            hint="Unpublish one of them first",
        )
    return replace(sandbox, published=entries)


def without_port(sandbox: Sandbox, port: int) -> Sandbox:
    """Return the sandbox without a published port.

    Raises:
        NotFound: The port is not published.
    """
    if str(port) not in sandbox.published:
        ports = ", ".join(sorted(sandbox.published, key=lambda one: one.zfill(5)))
        raise NotFound(
            f"Port {port} of sandbox {sandbox.id} is not published", hint=f"Published: {ports}" if ports else ""
        )
    return replace(sandbox, published={one: text for one, text in sandbox.published.items() if one != str(port)})


def with_ports_only(sandbox: Sandbox, ports: Sequence[int]) -> Sandbox:
    """Return the sandbox with exactly these published ports: those that are published stay as they are."""
    entries = {str(port): sandbox.published.get(str(port)) or PublishedPort(port=port).text() for port in ports}
    return replace(sandbox, published=entries)
