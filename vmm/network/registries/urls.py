"""The host in a URL as package tools write them, and texts within parsed configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import idna

_LABELS = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_KIND = re.compile(r"^[a-z0-9.+-]*\+(?=[a-z0-9.]+://)")  # sparse+https://, mirror+http://, git+ssh://


def host_of(url: str) -> str | None:
    """Return the host that a URL names, without user, password and port; None if it names none."""
    url = _KIND.sub("", url.strip())
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return None
    return _clean(host)


def texts(value: object, *keys: str) -> Iterator[str]:
    """Give the texts at a path within parsed TOML or JSON, whatever else has another shape.

    Args:
        value: What was parsed.
        keys: The way to the texts; "*" stands for every key. Lists on the way are looked through.
    """
    if isinstance(value, list):
        for item in cast("list[object]", value):
            yield from texts(item, *keys)
    elif not keys:
        if isinstance(value, str):
            yield value
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            if keys[0] in ("*", key):
                yield from texts(inner, *keys[1:])


def _clean(host: str) -> str | None:
    host = host.lower().removesuffix(".")
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except UnicodeError:
            return None
    return host if len(host) <= 253 and _LABELS.fullmatch(host) else None
