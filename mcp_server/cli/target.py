"""Which server a command works with: a named one, the one that runs on the data directory, or one made for the moment.

Only one process may work on a data directory. When no server does, the same web application is served here, on a free
port of the loopback, for as long as the command takes: everything then goes the one way, streams and terminals too.
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
    """Where the person at the keyboard wants to work.

    Attributes:
        url: A server's address; empty for the one of this data directory.
        key_file: Where the key lies; None for CASEMATE_API_KEY, or the local key if no server is named.
    """

    url: str = ""
    key_file: Path | None = None


@asynccontextmanager
async def open_remote(target: Target) -> AsyncGenerator[Remote]:
    """The server, for the length of a block.

    Raises:
        CliError: There is no server, or no key.
        DataDirInUse: Another command is at work on the data directory at this moment.
    """
    key, origin = await _given_key(target)
    if target.url:
        url = _checked(target.url)
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
    """The server if one is named or runs, for the length of a block; nothing is started or made.

    Raises:
        CliError: There is no key.
    """
    if target.url or await _holder(Settings.load()):
        async with open_remote(target) as remote:
            yield remote
    else:
        yield None


@asynccontextmanager
async def _local_server(settings: Settings) -> AsyncGenerator[str]:
    """The address of the server of this data directory, which is made for the block if none runs."""
    url = await _holder(settings)
    if url:
        yield url
        return
    # Late: it brings the whole server, which takes longer to load than a command on a running one takes in all.
    from .temporary_server import temporary_server  # noqa: PLC0415

    async with temporary_server(settings) as url:
        yield url


async def _holder(settings: Settings) -> str:
    try:
        return await anyio.to_thread.run_sync(holder_url, settings.data)
    except OSError as error:
        raise CliError(
            f"CASEMATE_DATA={settings.data} cannot be used ({error.strerror}): work as its owner, or name a server "
            f"with --url or {URL}"
        ) from None


async def _given_key(target: Target) -> tuple[str, str]:
    if target.key_file is not None:
        return _sane(await anyio.to_thread.run_sync(_read, target.key_file), str(target.key_file)), str(target.key_file)
    key = os.environ.get(API_KEY, "").strip()
    return _sane(key, API_KEY), API_KEY if key else ""


async def _local_key(settings: Settings) -> tuple[str, str]:
    try:
        key = await anyio.to_thread.run_sync(read_key, settings.key_file)
    except KeyFileError as error:
        raise CliError(str(error)) from None
    if not key:
        raise CliError(f"There is no key at {settings.key_file} yet: casemate serve makes one on its first start")
    return _sane(key, str(settings.key_file)), str(settings.key_file)


def _read(path: Path) -> str:
    """A key of the user's own keeping; unlike the local one its file is left as it is."""
    try:
        with path.open("rb") as file:
            key = file.read(_MOST_KEY).decode("ascii", "replace").strip()
    except OSError as error:
        raise CliError(f"--key-file {path} cannot be read ({error.strerror}): name a file that holds a key") from None
    if not key:
        raise CliError(f"--key-file {path} is empty: name a file that holds a key")
    return key


def _sane(key: str, origin: str) -> str:
    """A key that fits into a header; what it is stays unsaid."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CliError(f"What {origin} holds can be no key: it has blanks or other letters than keys have")
    return key


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good, parts = False, urlsplit("")
    if parts.username or parts.password:
        raise CliError(f"The URL holds a user name or password: give the key with --key-file or in {API_KEY} instead")
    if not good or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise CliError(f"{url[:_SHOWN]!r} is no server's address: write such as https://casemate.example.org")
    base = url.rstrip("/")
    for endpoint in _ENDPOINTS:
        base = base.removesuffix(endpoint)
    return base
