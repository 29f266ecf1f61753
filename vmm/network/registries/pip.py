"""The indexes that pip is set up for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from configparser import Error, RawConfigParser
from pathlib import Path

from .host import Host
from .urls import host_of

_SOURCE = "pip/_internal/models/index.py"
_DEFAULT = re.compile(r'PackageIndex\(\s*"(https://[^"]+)",\s*file_storage_domain="([^"]+)"')
_OPTIONS = ("index-url", "extra-index-url", "find-links")


def urls(host: Host) -> Iterator[str]:
    """Give the URLs of indexes and of the files that they list."""
    configured = [*host.words("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")]
    replaced = bool(host.environ.get("PIP_INDEX_URL"))
    for path in _files(host):
        options = host.read(path, _options) or {}
        replaced = replaced or "index-url" in options
        configured += (url for option in _OPTIONS for url in options.get(option, "").split())
    yield from configured
    yield from default(host, configured, replaced=replaced)


def default(host: Host, configured: list[str], *, replaced: bool) -> Iterator[str]:
    """Give the index that is built into pip, and the host of its files, where they are used.

    Args:
        host: Where pip is.
        configured: The URLs of the configuration; the index may be among them.
        replaced: Whether the configuration has another index in its place.
    """
    if (found := _built_in(host)) is None:
        return
    index, files = found
    if not replaced or host_of(index) in map(host_of, configured):
        yield index
        yield f"https://{files}/"


def _files(host: Host) -> Iterator[Path]:
    named = host.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    etc = host.root / "etc"
    yield from (etc / "xdg/pip/pip.conf", etc / "pip.conf")
    yield from (host.home / ".pip/pip.conf", host.config_home / "pip/pip.conf")
    if path := host.path("PIP_CONFIG_FILE"):
        yield path


def _options(text: str) -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except Error as error:
        raise ValueError("no configuration of pip") from error
    found: dict[str, str] = {}
    for section in parser.sections():
        for option, value in parser.items(section):
            name = option.replace("_", "-")
            found[name] = f"{found.get(name, '')} {value}"
    return found


def _built_in(host: Host) -> tuple[str, str] | None:
    """Read the default from the source of the pip that is installed, or of the one that Python brings along."""
    for source in _sources(host):
        if match := _DEFAULT.search(source):
            return match[1], match[2]
    return None


def _sources(host: Host) -> Iterator[str]:
    prefixes = list(host.prefixes)
    if python := host.program("python3"):
        prefixes.append(python.parent.parent)
    trees = [tree for prefix in prefixes for tree in host.glob(prefix / "lib", "python3*")]
    for path in (
        *(tree / packages / _SOURCE for tree in trees for packages in ("site-packages", "dist-packages")),
        host.root / "usr/lib/python3/dist-packages" / _SOURCE,
    ):
        if source := host.read(path, str):
            yield source
    for directory in (*(tree / "ensurepip/_bundled" for tree in trees), host.root / "usr/share/python-wheels"):
        for wheel in host.glob(directory, "pip-*.whl"):
            if source := host.member(wheel, _SOURCE):
                yield source
