"""The package registries of this host: what the policy "packages" means here.

They are read from the configuration of the host's own tools, so that a sandbox gets its packages from where the host
gets them. A tool without configuration has a built-in registry, which is read from the tool's own files.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

import structlog

from .entries import network_entry
from .names import pattern
from .registries import apt, cargo, git, go, maven, npm, pip, uv
from .registries.host import Host
from .registries.urls import host_of

log = structlog.get_logger(__name__)

_TOOLS = (pip, uv, npm, apt, cargo, go, maven, git)


def registries(
    environ: Mapping[str, str], home: Path, *, root: Path = Path("/"), prefixes: Sequence[Path] | None = None
) -> tuple[str, ...]:
    """Find the registries that this host is set up for.

    A file that cannot be read is skipped, with a warning that names it. Credentials of URLs are never kept.

    Args:
        environ: The environment in which the tools would run.
        home: The home directory of the user whose configuration counts.
        root: Where `etc` and `usr` are.
        prefixes: Where Python is installed, with the pip and npm that belong to it; else the server's own.

    Returns:
        Host names, addresses, and wildcards of registries that have more than one host; sorted.
    """
    if prefixes is None:
        prefixes = (Path(sys.prefix), Path(sys.base_prefix))
    host = Host(environ=environ, home=home, root=root, prefixes=tuple(prefixes))
    found = {name for tool in _TOOLS for url in tool.urls(host) if (name := host_of(url))}
    return tuple(sorted(name for name in found if _elsewhere(name)))


def more_registries(text: str, *, field: str) -> tuple[str, ...]:
    """Read the operator's own list of registries, with commas between names, wildcards, addresses and networks.

    Raises:
        InvalidInput: An entry is none of these.
    """
    entries = filter(None, map(str.strip, text.split(",")))
    return tuple(str(network_entry(entry, field=field) or pattern(entry, field=field)) for entry in entries)


def _elsewhere(name: str) -> bool:
    """Leave out what runs on the host itself: sandboxes do not reach its loopback."""
    try:
        local = IPv4Address(name).is_loopback or IPv4Address(name).is_unspecified
    except AddressValueError:
        local = name == "localhost" or name.endswith(".localhost")
    if local:
        log.warning("registry left out", host=name, reason="sandboxes do not reach the host's loopback")
    return not local
