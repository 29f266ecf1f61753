"""Values of VoidRun's published environment that are unsafe as they stand: what becomes of them here, and why."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmm.network.own_addresses import addresses

from .names import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXAMPLE = "change-me-in-production"
"""The JWT_SECRET of VoidRun's documentation, which everybody can read."""
_FALSE = {"0", "false", "f", "no", "n", "off"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """An environment without the unsafe values.

    Attributes:
        environ: The rest of the environment.
        warnings: One line for each value that is left out.
        refusals: One line for each value that is needed and cannot be used.
    """

    environ: Mapping[str, str]
    warnings: list[str] = field(default_factory=list[str])
    refusals: list[str] = field(default_factory=list[str])


def adapt(environ: Mapping[str, str]) -> Adapted:
    """Leave out what would be unsafe to use, so that the server starts as far as it can do without."""
    kept = dict(environ)
    adapted = Adapted(environ=kept)
    if environ.get("JWT_SECRET") == _EXAMPLE:
        del kept["JWT_SECRET"]
        why = "JWT_SECRET is the example of VoidRun's documentation, with which everybody could sign tokens"
        how = "set it to what openssl rand -hex 32 prints"
        wanted = [name for name in (f"{PREFIX}JWT_ISSUER", f"{PREFIX}JWT_AUDIENCE") if environ.get(name)]
        if wanted and not _has_other_keys(environ):
            adapted.refusals.append(f"{why}: {how}, or remove {' and '.join(wanted)} to go on without tokens")
        else:
            adapted.warnings.append(f"{why}, so it is not used, and API keys alone are accepted: {how} to use tokens")
    if environ.get("CORS_ENABLED", "").lower() in _FALSE and kept.pop("CORS_ALLOW_ORIGINS", ""):
        adapted.warnings.append("CORS_ALLOW_ORIGINS is not used because CORS_ENABLED is off: remove one of them")
    return adapted


def own_hosts() -> list[str]:
    """Return the names under which this machine is usually reached: its host name and its IPv4 addresses."""
    name = socket.gethostname().lower()
    try:
        found = [str(address) for address in addresses() if not address.is_loopback]
    except OSError:
        found = []
    return ["localhost", *([name] if _NAME.fullmatch(name) else []), *found]


def everywhere(hosts: list[str]) -> str:
    """Warn of a server that listens on every address because VoidRun's variable says so.

    Args:
        hosts: The names that it answers to.
    """
    return (
        f"SERVER_HOST listens on every address of this machine, where keys travel in the clear: put a proxy with TLS "
        f"before it. It answers to {', '.join(hosts)}: set {PREFIX}ALLOWED_HOSTS for other names"
    )


def _has_other_keys(environ: Mapping[str, str]) -> bool:
    names = ("JWT_SECRET", "JWT_SECRET_FILE", "JWT_JWKS_URL")
    return any(environ.get(PREFIX + name) for name in names) or bool(environ.get("JWT_SECRET_FILE"))
