"""The registries that cargo is set up for."""

from __future__ import annotations

import json
import mmap
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from .host import Host
from .urls import host_of, texts

_INDEX = re.compile(rb"sparse\+https://index\.([a-z0-9-]+(?:\.[a-z0-9-]+)+)/")
_VARIABLE = re.compile(r"CARGO_REGISTRIES_[A-Z0-9_]+_INDEX")


def urls(host: Host) -> Iterator[str]:
    """Give the URLs of indexes, and of the hosts that keep the crates, as far as cargo has met them."""
    home = host.path("CARGO_HOME") or host.home / ".cargo"
    found = [value for variable, value in host.environ.items() if _VARIABLE.fullmatch(variable)]
    replaced = False
    for name in ("config", "config.toml"):
        config = host.read(home / name, tomllib.loads) or {}
        for keys in (("source", "*", "registry"), ("source", "*", "git"), ("registries", "*", "index")):
            found += texts(config, *keys)
        found += texts(config, "registry", "index")
        replaced = replaced or any(texts(config, "source", "crates-io", "replace-with"))
    domain = _built_in(host)
    index = f"https://index.{domain}/"
    if domain and (not replaced or host_of(index) in map(host_of, found)):
        # Only the index itself, over the network, names the host of the crates: another one below the same domain.
        found += (index, f"https://*.{domain}/")
    yield from found
    yield from _downloads(host, home, {host_of(url) for url in found})


def _built_in(host: Host) -> str | None:
    """Read the default registry's domain from cargo itself."""
    program = host.program("cargo")
    if program is None:
        return None
    # What is on PATH may be rustup, which stands in for the programs of all its toolchains.
    rustup = host.path("RUSTUP_HOME") or host.home / ".rustup"
    programs = (program, *host.glob(rustup / "toolchains", "*/bin/cargo"))
    for path in programs:
        if match := _search(path):
            return match
    return None


def _search(program: Path) -> str | None:
    try:
        with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            match = _INDEX.search(content)
            return match[1].decode() if match else None
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None


def _downloads(host: Host, home: Path, indexes: set[str | None]) -> Iterator[str]:
    """Give the download hosts that cargo noted when it used an index of the configuration."""
    for path in host.glob(home / "registry/index", "*/config.json"):
        if path.parent.name.rpartition("-")[0] in indexes:
            config = host.read(path, json.loads)
            yield from (*texts(config, "dl"), *texts(config, "api"))
