"""The hosts that git is told to use in place of others (url.BASE.insteadOf). It has no built-in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .host import Host

_SECTION = re.compile(r'\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]')
_SETTING = re.compile(r"([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*))?")
_COPIED = re.compile(r"(?:[^/@:]+@)?([A-Za-z0-9.-]+):(?!//)")  # user@example.com:path
_DEEPEST = 5


def urls(host: Host) -> Iterator[str]:
    """Give the URLs that stand in place of others."""
    for base in _bases(host):
        copied = _COPIED.match(base)
        yield f"ssh://{copied[1]}/" if copied else base


def _bases(host: Host) -> Iterator[str]:
    system = host.path("GIT_CONFIG_SYSTEM") or host.root / "etc/gitconfig"
    if host.environ.get("GIT_CONFIG_NOSYSTEM", "") in ("", "0", "false"):
        yield from _file(host, system)
    if path := host.path("GIT_CONFIG_GLOBAL"):
        yield from _file(host, path)
    else:
        yield from _file(host, host.config_home / "git/config")
        yield from _file(host, host.home / ".gitconfig")
    yield from _variables(host)


def _variables(host: Host) -> Iterator[str]:
    count = host.environ.get("GIT_CONFIG_COUNT", "")
    for number in range(min(int(count), 1000) if count.isdecimal() else 0):
        key = host.environ.get(f"GIT_CONFIG_KEY_{number}", "")
        section, _, rest = key.partition(".")
        base, _, name = rest.rpartition(".")
        if (section.lower(), name.lower()) == ("url", "insteadof"):
            yield base


def _file(host: Host, path: Path, depth: int = 0) -> Iterator[str]:
    for section, base, name, value in host.read(path, _settings) or ():
        if (section, name) == ("url", "insteadof"):
            yield base
        elif (section, name) == ("include", "path") and value and depth < _DEEPEST:
            inner = host.home / value[2:] if value.startswith("~/") else path.parent / value
            yield from _file(host, inner, depth + 1)


def _settings(text: str) -> list[tuple[str, str, str, str]]:
    """Read git's format: sections, with a name in quotes or without, and settings below them."""
    found: list[tuple[str, str, str, str]] = []
    section = base = ""
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        rest = line.strip()
        if match := _SECTION.match(rest):
            section, base = match[1].lower(), re.sub(r"\\(.)", r"\1", match[2] or "")
            rest = rest[match.end() :].strip()
        if not rest or rest[0] in "#;":
            continue
        if not section or (setting := _SETTING.fullmatch(rest)) is None:
            raise ValueError("a line that is no setting")
        found.append((section, base, setting[1].lower(), (setting[2] or "").strip().strip('"')))
    return found
