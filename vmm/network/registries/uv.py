"""The indexes that uv is set up for."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import cast

from . import pip
from .host import Host
from .urls import texts


def urls(host: Host) -> Iterator[str]:
    """Give the URLs of indexes; uv's built-in index is that of pip."""
    replacing = [*host.words("UV_DEFAULT_INDEX", "UV_INDEX_URL")]
    more = [*host.words("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")]
    files = [host.root / "etc/uv/uv.toml", host.config_home / "uv/uv.toml"]
    if path := host.path("UV_CONFIG_FILE"):
        files = [path]
    for path in files:
        settings = host.read(path, tomllib.loads) or {}
        for table in (settings, settings.get("pip")):
            replacing += texts(table, "index-url")
            more += (*texts(table, "extra-index-url"), *texts(table, "find-links"), *texts(table, "index", "url"))
        indexes = cast("object", settings.get("index"))
        for index in cast("list[object]", indexes) if isinstance(indexes, list) else ():
            if isinstance(index, dict) and cast("dict[str, object]", index).get("default") is True:
                replacing += texts(cast("object", index), "url")
    configured = [entry[entry.find("=") + 1 :] if _named(entry) else entry for entry in (*replacing, *more)]
    yield from configured
    if host.program("uv"):
        yield from pip.default(host, configured, replaced=bool(replacing))


def _named(entry: str) -> bool:
    """Tell whether an entry is `name=url`; a URL can have an equals sign, too, but after its scheme."""
    return "=" in entry.partition("://")[0]
