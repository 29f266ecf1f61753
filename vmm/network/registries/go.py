"""The module proxies and the checksum database that Go is set up for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .host import Host

_NAMES = ("GOPROXY", "GOSUMDB")
_SOURCE = re.compile(r'"(GOPROXY|GOSUMDB)",\s*"([^"]+)"')


def urls(host: Host) -> Iterator[str]:
    """Give the URLs; the environment goes before the user's file, and both before Go's own."""
    settings = _defaults(host)
    if host.environ.get("GOENV") != "off":
        path = host.path("GOENV") or host.config_home / "go/env"
        settings |= host.read(path, _settings) or {}
    settings |= {name: value for name in _NAMES if (value := host.environ.get(name))}
    for proxy in re.split(r"[,|]", settings.get("GOPROXY", "")):
        if proxy.strip() not in ("", "direct", "off"):
            yield proxy
    # Its key's name is the host; a second word, if any, is the URL to use in its place.
    words = settings.get("GOSUMDB", "").split()
    if words and words[0] != "off":
        yield words[1] if len(words) > 1 else f"https://{words[0].partition('+')[0]}/"


def _settings(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def _defaults(host: Host) -> dict[str, str]:
    """Read the defaults of the Go that is installed: from a file of their own, before Go 1.21 from its source."""
    if (program := host.program("go")) is None:
        return {}
    tree = program.parent.parent
    settings = host.read(tree / "go.env", _settings)
    if settings is None:
        settings = dict(host.read(tree / "src/cmd/go/internal/cfg/cfg.go", _SOURCE.findall) or ())
    return settings
