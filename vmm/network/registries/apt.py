"""The archives that apt is set up for. It has no built-in one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .host import Host

_LINE = re.compile(r"deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)\s+\S+")
_MIRRORS = re.compile(r"mirror\+file:/+(.+)")


def urls(host: Host) -> Iterator[str]:
    """Give the URIs of all sources, and those in the lists of mirrors that sources name."""
    etc = host.root / "etc/apt"
    found: list[str] = []
    for path in (etc / "sources.list", *host.glob(etc / "sources.list.d", "*.list")):
        found += host.read(path, _lines) or ()
    for path in host.glob(etc / "sources.list.d", "*.sources"):
        found += host.read(path, _stanzas) or ()
    for uri in found:
        yield uri
        if match := _MIRRORS.fullmatch(uri):
            yield from host.read(host.root / match[1], _mirrors) or ()


def _lines(text: str) -> list[str]:
    """Read the format of one line for each source."""
    found: list[str] = []
    for line in text.splitlines():
        source = line.partition("#")[0].strip()
        if not source:
            continue
        if (match := _LINE.match(source)) is None:
            raise ValueError("a line that is no source")
        found.append(match[1])
    return found


def _stanzas(text: str) -> list[str]:
    """Read the deb822 format: fields with lines that continue them, in stanzas with blank lines between them."""
    found: list[str] = []
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields: dict[str, str] = {}
        name = ""
        for line in filter(str.strip, stanza.splitlines()):
            key, colon, value = line.partition(":")
            if line[0].isspace() and name:
                fields[name] += f" {line.strip()}"
            elif colon and not line[0].isspace():
                name = key.strip().lower()
                fields[name] = value
            else:
                raise ValueError("a line that is no field")
        if fields.get("enabled", "yes").strip().lower() not in ("no", "false", "off", "0"):
            found += fields.get("uris", "").split()
    return found


def _mirrors(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]
