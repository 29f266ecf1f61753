"""Checks of single values: pure functions that give the value back, or say what is wrong with it and the way out."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from .refusals import shown

_ORIGIN = re.compile(r"https?://[^/\s*?#@\\]+(:\*)?")
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1", "[::1]"}
_DATABASE = re.compile(r'[^/\\. "$*<>:|?\x00-\x1f]+')
_WORD = re.compile(r"[\x21-\x7e]+")
_OWN_DATABASES = {"admin", "local", "config"}
_JWT_BYTES = 32
_KEY_LENGTH = 24
_TOKEN_LENGTH = 16


def split(value: object) -> object:
    """The parts of a list with commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def split_secrets(value: object) -> object:
    """The parts of a list with commas or, as files have them, on lines."""
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


def directory(value: Path) -> Path:
    """An absolute path that is a directory, or nothing yet."""
    path = value.expanduser()
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError("is not an absolute path: set it to one such as /var/lib/casemate")
    if path.exists() and not path.is_dir():
        raise ValueError("is not a directory: name another one, or move the file away")
    return path


def host_names(value: tuple[str, ...]) -> tuple[str, ...]:
    """Names or addresses, each with a port or `:*` if need be."""
    for host in value:
        if any(letter in host for letter in "/*? ") and not host.endswith(":*"):
            raise ValueError(f"has {shown(host)!r}, which is no host name: write names such as box.example.org")
    return value


def web_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    """Origins of web pages, never all of them."""
    for origin in value:
        if origin == "*":
            raise ValueError("has '*', which would let every web page call: name the origins that you trust")
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"has {shown(origin)!r}, which is no origin: write such as https://box.example.org")
    return value


def proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses and networks, never all of them."""
    for entry in value:
        try:
            network = ip_network(entry)
        except ValueError:
            raise ValueError(
                f"has {shown(entry)!r}, which is no address and no network: write such as 127.0.0.1 or 10.0.0.0/8"
            ) from None
        if network.prefixlen == 0:
            raise ValueError(f"has {shown(entry)!r}, which would let everybody choose an address: name your proxies")
    return value


def key_set(value: str) -> str:
    """An address of public keys that nobody on the way can change; empty is allowed."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if "@" in parts.netloc:
        raise ValueError("has a user in it: name an address that needs none")
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError("is no address: write such as https://id.example.org/.well-known/jwks.json")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("is not encrypted, so that anybody on the way could put in keys: use https")
    return value


def database_uri(value: SecretStr) -> SecretStr:
    """The address of a MongoDB; what is wrong is never quoted, it holds a password."""
    uri = value.get_secret_value()
    scheme, separator, rest = uri.partition("://")
    if scheme not in {"mongodb", "mongodb+srv"} or not separator or not rest.rpartition("@")[2].strip("/"):
        raise ValueError("is no address of a MongoDB: write such as mongodb://user:password@host:27017/casemate")
    return value


def database_name(value: str) -> str:
    """A name that MongoDB accepts, and does not use itself."""
    if not _DATABASE.fullmatch(value) or len(value.encode()) > 63 or value in _OWN_DATABASES:
        raise ValueError("is no name for a database of ours: use letters, digits, - and _, such as casemate")
    return value


def signing_secret(value: SecretStr) -> SecretStr:
    """A secret that cannot be guessed from a token."""
    if len(value.get_secret_value().encode()) < _JWT_BYTES:
        raise ValueError(f"is shorter than {_JWT_BYTES} bytes, so it could be guessed: openssl rand -hex 32 makes one")
    return value


def static_keys(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Keys long enough that nobody tries them all."""
    for number, key in enumerate(value, 1):
        if len(key) < _KEY_LENGTH or not _WORD.fullmatch(key.get_secret_value()):
            raise ValueError(
                f"has a key, number {number}, of {len(key)} characters; {_KEY_LENGTH} ASCII letters, digits and "
                f"signs are the least: openssl rand -hex 24 makes one"
            )
    if len(set(value)) < len(value):
        raise ValueError("has the same key twice: remove one")
    return value


def scrape_token(value: SecretStr) -> SecretStr:
    """A token that fits into a header."""
    if len(value) < _TOKEN_LENGTH or not _WORD.fullmatch(value.get_secret_value()):
        raise ValueError(
            f"needs {_TOKEN_LENGTH} ASCII letters, digits and signs at least: openssl rand -hex 24 makes one"
        )
    return value


def addresses(host: str) -> list[IPv4Address | IPv6Address]:
    """The addresses of a host to listen on; none if it has none on this machine."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ip_address(str(info[4][0]).partition("%")[0]) for info in infos]


def is_loopback(host: str) -> bool:
    """Whether a host, written as in a URL or a Host header, can only be this machine."""
    name = host if host in _LOOPBACK_NAMES else host.rpartition(":")[0] if has_port(host) else host
    try:
        return name in _LOOPBACK_NAMES or ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether an address means all addresses of the machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def bracketed(host: str) -> str:
    """A host as a URL has it."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def has_port(name: str) -> bool:
    """Whether a name as a Host header has it names a port."""
    return ":" in name.rsplit("]", 1)[-1]
