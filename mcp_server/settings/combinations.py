"""Validation of combinations of settings: errors for unsafe or unusable ones, warnings for doubtful ones."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vmm.errors import InvalidInput

from . import checks
from .names import PREFIX
from .refusals import shown

if TYPE_CHECKING:
    from .model import Settings


def combination_errors(settings: Settings) -> list[str]:
    """Return one line for each combination that is refused."""
    return [
        *_listening(settings),
        *_local_mode(settings),
        *_sizes(settings),
        *_taps(settings),
        *_sandbox_api(settings),
    ]


def combination_warnings(settings: Settings) -> list[str]:
    """Return one line for each combination that works, but perhaps not as intended."""
    lines: list[str] = []
    if settings.jwt_jwks_url and not settings.jwt_audience:
        lines.append(
            f"{PREFIX}JWT_JWKS_URL without {PREFIX}JWT_AUDIENCE accepts tokens that were issued for other services: "
            f"set {PREFIX}JWT_AUDIENCE"
        )
    if settings.registration == "open" and not settings.local_only:
        lines.append(f"{PREFIX}REGISTRATION=open lets everybody who can reach the server create an account")
    if settings.allowed_origins == checks.ANY_ORIGIN:
        lines.append(
            f"{PREFIX}ALLOWED_ORIGINS=* lets every web page call this server with a key that it knows, but never with "
            f"a browser's cookies: list the origins that you trust"
        )
    if settings.query_keys:
        lines.append(
            f"{PREFIX}QUERY_KEYS is on: keys in URLs stay in the histories of browsers and the logs of proxies; this "
            f"server keeps them out of its own"
        )
    if settings.local_mode:
        lines.append(f"{PREFIX}LOCAL_MODE is on: every program on this machine can use all sandboxes without a key")
    scheme, _, domain = settings.ports_domain.lower().rpartition("://")
    if scheme == "http" and not f".{domain.partition(':')[0]}".endswith(".localhost"):
        lines.append(
            f"{PREFIX}PORTS_DOMAIN={shown(settings.ports_domain)} serves published ports over plain http, where pages "
            f"of one sandbox can make a browser open ports of others: use https when sandboxes do not trust each other"
        )
    return lines


def _listening(settings: Settings) -> list[str]:
    host = shown(settings.host)
    if not checks.addresses(settings.host):
        return [f"{PREFIX}HOST={host!r} is not an address of this machine: set for example {PREFIX}HOST=127.0.0.1"]
    if checks.is_wildcard(settings.host) and not settings.allowed_hosts:
        return [
            f"{PREFIX}HOST={host} listens on every address, which requires the host names that clients use: "
            f"set for example {PREFIX}ALLOWED_HOSTS={socket.gethostname()},192.0.2.7"
        ]
    return []


def _local_mode(settings: Settings) -> list[str]:
    if not settings.local_mode:
        return []
    if not settings.local_only:
        return [
            f"{PREFIX}LOCAL_MODE=true lets callers in without a key, so only this machine may reach the server: set "
            f"{PREFIX}HOST=127.0.0.1 and remove {PREFIX}ALLOWED_HOSTS and {PREFIX}TRUSTED_PROXIES, or turn it off"
        ]
    if settings.allowed_origins:
        return [
            f"{PREFIX}LOCAL_MODE=true lets callers in without a key, including web pages of {PREFIX}ALLOWED_ORIGINS: "
            f"remove one of the two"
        ]
    return []


def _sizes(settings: Settings) -> list[str]:
    if settings.default_mem > settings.max_memory_mib:
        return [
            f"{PREFIX}DEFAULT_MEM={settings.default_mem} must be at most {PREFIX}MAX_MEMORY_MIB="
            f"{settings.max_memory_mib}, otherwise no sandbox can start: lower one or raise the other"
        ]
    if settings.default_cpu > settings.max_vcpus:
        return [
            f"{PREFIX}DEFAULT_CPU={settings.default_cpu} must be at most {PREFIX}MAX_VCPUS={settings.max_vcpus}, "
            f"otherwise no sandbox can start: lower one or raise the other"
        ]
    return []


def _taps(settings: Settings) -> list[str]:
    try:
        _ = settings.taps
    except InvalidInput as error:
        return [f"{error.message}. {error.hint}".removesuffix(". ")]
    return []


def _sandbox_api(settings: Settings) -> list[str]:
    port = settings.sandbox_api_port
    if port and port == settings.port:
        return [
            f"{PREFIX}SANDBOX_API_PORT={port} is {PREFIX}PORT, too, which serves the same: remove it, or set another "
            f"port"
        ]
    if settings.sandbox_api and settings.sandbox_api_mem > settings.max_memory_mib:
        return [
            f"{PREFIX}SANDBOX_API_MEM={settings.sandbox_api_mem} must be at most {PREFIX}MAX_MEMORY_MIB="
            f"{settings.max_memory_mib}, otherwise no session can start: lower one or raise the other"
        ]
    return []
