"""Addresses of published ports: by host name, `8000-<sandbox>.localhost`, and by path below the REST API."""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Generator

LOCAL = "localhost"
"""The domain whose names browsers resolve to their own machine, without any set-up."""

_HOST = re.compile(r"([1-9][0-9]{0,4})-([0-9a-f]{24})\.(.+?)\.?(?::[0-9]{1,5})?")
_PATH = re.compile(rb"(/api/sandboxes/([A-Za-z0-9._~-]{1,253})/ports/([0-9]{1,20}))(/.*)?", re.DOTALL)
_ID = re.compile(r"[0-9a-f]{24}")

_reached: ContextVar[int] = ContextVar("port_reached", default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The port that a request is for.

    Attributes:
        ref: The sandbox's id; in a path also its name, which only its owner can use.
        port: The TCP port of the guest.
        prefix: The path of the port's root, without a slash at its end; empty if the host name says the port.
        path: The path as the guest knows it, percent-encoded; empty if the slash after the port is missing.
    """

    ref: str
    port: int
    prefix: str
    path: bytes

    @property
    def sandbox_id(self) -> str:
        """The sandbox's id; empty if the request names the sandbox."""
        return self.ref if _ID.fullmatch(self.ref) else ""


class PortNames:
    """Builds and reads the addresses of published ports.

    Args:
        domain: The setting: a domain such as ports.example.com, of which every name leads to this server, perhaps with
            a scheme and a port. Without a scheme it is https, for a name of localhost http.
        port: The port of the server, for names of localhost; requests that came in by another one win.
    """

    def __init__(self, domain: str, *, port: int) -> None:
        scheme, separator, rest = domain.rpartition("://")
        parts = urlsplit(f"//{rest}")
        self._domain = parts.hostname or LOCAL
        self._local = self._domain == LOCAL or self._domain.endswith(f".{LOCAL}")
        self._scheme = scheme if separator else "http" if self._local else "https"
        self._named_port = parts.port
        self._port = port

    def by_host(self, host: str, path: bytes) -> Place | None:
        """Read a Host header; None if it is no port's."""
        found = _HOST.fullmatch(host.lower())
        if found is None or found[3] != self._domain or int(found[1]) > 65535:
            return None
        return Place(ref=found[2], port=int(found[1]), prefix="", path=path)

    @staticmethod
    def by_path(path: bytes) -> Place | None:
        """Read a path, percent-encoded as it was sent; None if it is no port's."""
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        return Place(ref=found[2].decode(), port=int(found[3]), prefix=found[1].decode(), path=found[4] or b"")

    def url(self, sandbox_id: str, port: int) -> str:
        """Return the URL of a published port by host name."""
        own = self._named_port
        if own is None and self._local:
            own = _reached.get() or self._port
        suffix = f":{own}" if own else ""
        return f"{self._scheme}://{port}-{sandbox_id}.{self._domain}{suffix}/"

    @staticmethod
    def path(sandbox_id: str, port: int) -> str:
        """Return the path of a published port on the API's own host."""
        return f"/api/sandboxes/{sandbox_id}/ports/{port}/"


@contextmanager
def reached_by(host: str) -> Generator[None]:
    """Note by which port a request reached the server, so that URLs of localhost in its answer have the same one."""
    number = host.rsplit("]", 1)[-1].partition(":")[2]
    token = _reached.set(int(number) if number.isdecimal() and len(number) <= 5 else 0)
    try:
        yield
    finally:
        _reached.reset(token)
