"""User-facing messages for server errors and network failures: one line that says how to fix it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import httpx2

from .console import CliError, plain

if TYPE_CHECKING:
    from .values import Object

_SHOWN = 500
_MOST = 64 * 1024


class Missing(CliError):
    """The server answered 404: the resource does not exist."""


async def refusal(response: httpx2.Response, *, server: str, key_origin: str) -> CliError:
    """Return the error for an unsuccessful response.

    Args:
        response: The response; its body is read here, up to a limit.
        server: The server's address.
        key_origin: Where the key came from; empty if none was sent.
    """
    status = response.status_code
    fields = await _error_fields(response)
    if fields is None:
        return CliError(
            f"{server} answered {status} without Casemate's error format: is it a Casemate server, "
            "and is the URL right (CASEMATE_URL, --url)?"
        )
    error, details, number = (plain(str(fields.get(name) or ""))[:_SHOWN] for name in ("error", "details", "requestId"))
    line = f"{error}: {details}" if details else error
    match status:
        case 401:
            accepted = (
                f"{server} does not accept the key from {key_origin}" if key_origin else f"{server} requires a key"
            )
            way_out = f"{accepted}; give a valid key with --key-file FILE or in CASEMATE_API_KEY"
        case 429:
            seconds = response.headers.get("retry-after", "")
            way_out = f"try again in {seconds} s" if seconds.isdecimal() else "try again later"
        case 503 if not details:
            way_out = "try again in a moment, or check the server's health at /ready"
        case 500 | 502 | 504:
            way_out = f"search the server's log for request {number}" if number else "see the server's log"
        case _:
            way_out = ""
    line = f"{line}: {way_out}" if way_out else line
    return Missing(line) if status == 404 else CliError(line)


def failure(error: Exception, *, server: str) -> CliError:
    """Return the error for a server that cannot be reached, does not answer, or closed the connection."""
    match error:
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.ProxyError():
            return CliError(
                f"Cannot connect to {server} ({_cause(error)}): start it with casemate serve, or give its address "
                "with --url or CASEMATE_URL"
            )
        case httpx2.TimeoutException():
            return CliError(f"{server} did not answer in time: see its log, and check whether the request took effect")
        case _:
            return CliError(f"{server} closed the connection early ({_cause(error)}): see its log, and try again")


def _cause(error: Exception) -> str:
    return plain(str(error))[:_SHOWN] or type(error).__name__


async def _error_fields(response: httpx2.Response) -> Object | None:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > _MOST:
            return None
    try:
        value: object = json.loads(body)
    except ValueError:
        return None
    if isinstance(value, dict) and "error" in value:
        return cast("Object", value)
    return None
