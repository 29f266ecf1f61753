"""The server that a command talks to: a given one, the one of the data directory, or a temporary one.

Only one process may use a data directory. If no server runs, the command serves the same web application itself on a
free loopback port while it runs, so that all commands use the same REST API, streams and terminals included.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from auth.errors import KeyFileError
from auth.key_file import read_key

from ..data_dir_lock import holder_url
from ..settings import Settings
from .console import CliError
from .remote import Remote

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

URL = "CASEMATE_URL"
API_KEY = "CASEMATE_API_KEY"

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_ENDPOINTS = ("/api/mcp", "/api")
_SHOWN = 80
_MOST_KEY = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server and the key that the user selected.

    Attributes:
        url: A server's address; empty for the server of the data directory.
        key_file: File that holds the key; None for CASEMATE_API_KEY or, without a URL, the local key.
    """

    url: str = ""
    key_file: Path | None = None


@asynccontextmanager
async def open_remote(target: Target) -> AsyncGenerator[Remote]:
    """Connect to the target's server, starting a temporary one if needed.

    Raises:
        CliError: There is no server, or no key.
        DataDirInUse: Another command is using the data directory.
    """
    key, origin = await _given_key(target)
    if target.url:
        url = _base_url(target.url)
        loopback = urlsplit(url).hostname in _LOOPBACK
        async with Remote.connect(url, key=key, key_origin=origin, loopback=loopback) as remote:
            yield remote
        return
    settings = Settings.load()
    if not key:
        key, origin = await _local_key(settings)
    async with _local_server(settings) as url, Remote.connect(url, key=key, key_origin=origin, loopback=True) as remote:
        yield remote


@asynccontextmanager
async def open_running(target: Target) -> AsyncGenerator[Remote | None]:
    """Connect to the target's server if one is given or running, without starting or creating anything.

    Raises:
        CliError: There is no key.
    """
    if target.url or await _running_server(Settings.load()):
        async with open_remote(target) as remote:
            yield remote
    else:
        yield None


@asynccontextmanager
async def _local_server(settings: Settings) -> AsyncGenerator[str]:
    """Yield the address of the data directory's server, or of a temporary one if none runs."""
    url = await _running_server(settings)
    if url:
        yield url
        return
    # Imported late: loading the whole server takes longer than a command against a running one.
    from .temporary_server import temporary_server  # noqa: PLC0415

    async with temporary_server(settings) as url:
        yield url


async def _running_server(settings: Settings) -> str:
    try:
        return await anyio.to_thread.run_sync(holder_url, settings.data)
    except OSError as error:
        raise CliError(
            f"CASEMATE_DATA: cannot use {settings.data} ({error.strerror}): run this as its owner, or give a server "
            f"with --url or {URL}"
        ) from None


async def _given_key(target: Target) -> tuple[str, str]:
    if target.key_file is not None:
        return _valid_key(await anyio.to_thread.run_sync(_read, target.key_file), str(target.key_file)), str(
            target.key_file
        )
    key = os.environ.get(API_KEY, "").strip()
    return _valid_key(key, API_KEY), API_KEY if key else ""


async def _local_key(settings: Settings) -> tuple[str, str]:
    try:
        key = await anyio.to_thread.run_sync(read_key, settings.key_file)
    except KeyFileError as error:
        raise CliError(str(error)) from None
    if not key:
        raise CliError(f"There is no key at {settings.key_file} yet: casemate serve creates it on its first start")
    return _valid_key(key, str(settings.key_file)), str(settings.key_file)


def _read(path: Path) -> str:
    """Read a key from a file that the user manages; unlike the local key's file, its mode is not changed."""
    try:
        with path.open("rb") as file:
            key = file.read(_MOST_KEY).decode("ascii", "replace").strip()
    except OSError as error:
        raise CliError(f"--key-file: cannot read {path} ({error.strerror}): give a file that holds a key") from None
    if not key:
        raise CliError(f"--key-file: {path} is empty: give a file that holds a key")
    return key


def _valid_key(key: str, origin: str) -> str:
    """Check that a key is valid in a header; the message does not reveal it."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CliError(f"{origin} does not hold a valid key: keys are printable ASCII without spaces")
    return key


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good, parts = False, urlsplit("")
    if parts.username or parts.password:
        raise CliError(
            f"The URL must not contain a user name or password: give the key with --key-file or in {API_KEY} instead"
        )
    if not good or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise CliError(f"{url[:_SHOWN]!r} is not a server's URL: write one such as https://casemate.example.org")
    base = url.rstrip("/")
    for endpoint in _ENDPOINTS:
        base = base.removesuffix(endpoint)
    return base
