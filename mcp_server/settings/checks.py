"""Validation of single values: pure functions that return the value, or raise an error with the way out."""

from __future__ import annotations

import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from vmm.errors import InvalidInput
from vmm.network.packages import more_registries
from vmm.network.policy import Policy
from vmm.network.rules import opened_networks

from .refusals import shown

_ORIGIN = re.compile(r"https?://[^/\s*?#@\\]+(:\*)?")
ANY_ORIGIN = ("*",)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PORTS_DOMAIN = re.compile(rf"(https?://)?({_LABEL}(?:\.{_LABEL})*)(:[1-9][0-9]{{0,4}})?")
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1", "[::1]"}
_DATABASE = re.compile(r'[^/\\. "$*<>:|?\x00-\x1f]+')
_WORD = re.compile(r"[\x21-\x7e]+")
_OWN_DATABASES = {"admin", "local", "config"}
_JWT_BYTES = 32
_KEY_LENGTH = 24
_TOKEN_LENGTH = 16


def split(value: object) -> object:
    """Split a list at commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def split_secrets(value: object) -> object:
    """Split a list at commas or, as in a file, at line ends."""
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


def directory(value: Path) -> Path:
    """Validate an absolute path to a directory, which need not exist yet."""
    path = value.expanduser()
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError("must be an absolute path, such as /var/lib/casemate")
    if path.exists() and not path.is_dir():
        raise ValueError("must be a directory: set another path, or move the file away")
    return path


def host_names(value: tuple[str, ...]) -> tuple[str, ...]:
    """Validate host names or addresses, each with an optional port or `:*`."""
    for host in value:
        if any(letter in host for letter in "/*? ") and not host.endswith(":*"):
            raise ValueError(f"has {shown(host)!r}, which is not a host name: use names such as box.example.org")
    return value


def ports_domain(value: str) -> str:
    """Validate the domain of published ports: a host name, perhaps with a scheme and a port."""
    found = _PORTS_DOMAIN.fullmatch(value.lower())
    if found is None or len(value) > 180 or is_address(found[2]):
        raise ValueError(
            "must be a domain of which every name leads to this server, such as ports.example.com or "
            "https://ports.example.com:8443"
        )
    return value.lower()


def web_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    """Validate origins of web pages; `*` alone is all of them."""
    if value == ANY_ORIGIN:
        return value
    for origin in value:
        if origin == "*":
            raise ValueError("has '*', which is every web page, beside other origins: keep one of the two")
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"has {shown(origin)!r}, which is not an origin: use one such as https://box.example.org")
    return value


def proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    """Validate addresses and networks of proxies; a network of all addresses is refused."""
    for entry in value:
        try:
            network = ip_network(entry)
        except ValueError:
            raise ValueError(
                f"has {shown(entry)!r}, which is not an address or network: use one such as 127.0.0.1 or 10.0.0.0/8"
            ) from None
        if network.prefixlen == 0:
            raise ValueError(f"has {shown(entry)!r}, which would let everybody forge an address: list your proxies")
    return value


def network_policy(value: str) -> str:
    """Validate a policy, and return its canonical text."""
    with _own_words():
        return Policy.parse(value, field="").text()
    raise AssertionError  # unreachable: the block either returns or raises


def registries(value: tuple[str, ...]) -> tuple[str, ...]:
    """Validate names of package registries, with wildcards, and addresses."""
    with _own_words():
        return more_registries(",".join(value), field="")
    raise AssertionError  # unreachable: the block either returns or raises


def private_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    """Validate networks that are denied unless an operator opens them."""
    with _own_words():
        return tuple(str(network) for network in opened_networks(",".join(value), field=""))
    raise AssertionError  # unreachable: the block either returns or raises


def own_addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    """Validate addresses that lead to this host and that none of its interfaces has."""
    for entry in value:
        try:
            IPv4Address(entry)
        except AddressValueError:
            raise ValueError(f"must be IPv4 addresses such as 198.51.100.7, got {shown(entry)}") from None
    return value


def key_set(value: str) -> str:
    """Validate a JWKS URL: https, or http on loopback, so that nobody can replace the keys in transit; may be empty."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if "@" in parts.netloc:
        raise ValueError("has a user name: use a URL that needs no login")
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError("must be a URL such as https://id.example.org/.well-known/jwks.json")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("is not encrypted, so an attacker on the network could inject keys: use https")
    return value


def database_uri(value: SecretStr) -> SecretStr:
    """Validate a MongoDB connection string; messages never quote it, because it has a password."""
    uri = value.get_secret_value()
    scheme, separator, rest = uri.partition("://")
    if scheme not in {"mongodb", "mongodb+srv"} or not separator or not rest.rpartition("@")[2].strip("/"):
        raise ValueError("must be a MongoDB connection string such as mongodb://user:password@host:27017/casemate")
    return value


def database_name(value: str) -> str:
    """Validate a database name that MongoDB accepts and does not reserve."""
    if not _DATABASE.fullmatch(value) or len(value.encode()) > 63 or value in _OWN_DATABASES:
        raise ValueError(
            "must be a database name of letters, digits, - and _, such as casemate, and not one of "
            f"{', '.join(sorted(_OWN_DATABASES))}"
        )
    return value


def signing_secret(value: SecretStr) -> SecretStr:
    """Validate a signing secret: long enough that it cannot be guessed from a token."""
    size = len(value.get_secret_value().encode())
    if size < _JWT_BYTES:
        raise ValueError(f"must have at least {_JWT_BYTES} bytes, got {size}: create one with openssl rand -hex 32")
    return value


def static_keys(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Validate API keys: long enough that they cannot be guessed."""
    for number, key in enumerate(value, 1):
        if len(key) < _KEY_LENGTH or not _WORD.fullmatch(key.get_secret_value()):
            raise ValueError(
                f"must have keys of at least {_KEY_LENGTH} visible ASCII characters, key number {number} has "
                f"{len(key)} characters or others: create one with openssl rand -hex 24"
            )
    if len(set(value)) < len(value):
        raise ValueError("has the same key twice: remove one")
    return value


def scrape_token(value: SecretStr) -> SecretStr:
    """Validate a bearer token: long enough, and valid in a header."""
    if len(value) < _TOKEN_LENGTH or not _WORD.fullmatch(value.get_secret_value()):
        raise ValueError(
            f"must have at least {_TOKEN_LENGTH} visible ASCII characters: create one with openssl rand -hex 24"
        )
    return value


@contextmanager
def _own_words() -> Generator[None]:
    """Turn the core's refusals, which name no field here, into those of a setting."""
    try:
        yield
    except InvalidInput as error:
        raise ValueError(str(error).strip()) from None


def addresses(host: str) -> list[IPv4Address | IPv6Address]:
    """Resolve a host to listen on; empty if it does not resolve."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ip_address(str(info[4][0]).partition("%")[0]) for info in infos]


def is_loopback(host: str) -> bool:
    """Return whether a host, written as in a URL or a Host header, is always this machine."""
    name = host if host in _LOOPBACK_NAMES else host.rpartition(":")[0] if has_port(host) else host
    try:
        return name in _LOOPBACK_NAMES or ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Return whether a host is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_wildcard(host: str) -> bool:
    """Return whether an address means all addresses of the machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def bracketed(host: str) -> str:
    """Write a host as in a URL, with brackets around an IPv6 address."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def has_port(name: str) -> bool:
    """Return whether a name, written as in a Host header, has a port."""
    return ":" in name.rsplit("]", 1)[-1]
