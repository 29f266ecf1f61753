"""What a server's refusals and a network's failures mean to the person at the keyboard: one line with the way out."""

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
    """The server says that there is no such thing."""


async def refusal(response: httpx2.Response, *, server: str, key_origin: str) -> CliError:
    """A line about an answer that is an error.

    Args:
        response: Its body is read here, as far as it makes sense.
        server: Its address.
        key_origin: Where the key came from, or nothing.
    """
    status = response.status_code
    said = await _said(response)
    if said is None:
        return CliError(
            f"{server} answered {status} without a word that Casemate would say: is it a Casemate server, "
            "and is the URL right (CASEMATE_URL, --url)?"
        )
    error, details, number = (plain(str(said.get(name) or ""))[:_SHOWN] for name in ("error", "details", "requestId"))
    line = f"{error}: {details}" if details else error
    match status:
        case 401:
            accepted = (
                f"the key of {key_origin} is not accepted by {server}" if key_origin else f"{server} asks for one"
            )
            way_out = f"{accepted}; give a valid key with --key-file FILE or in CASEMATE_API_KEY"
        case 429:
            seconds = response.headers.get("retry-after", "")
            way_out = f"try again in {seconds} s" if seconds.isdecimal() else "try again later"
        case 503 if not details:
            way_out = "try again in a moment, or ask for the server's health at /ready"
        case 500 | 502 | 504:
            way_out = f"look at the server's log for the request {number}" if number else "look at the server's log"
        case _:
            way_out = ""
    line = f"{line}: {way_out}" if way_out else line
    return Missing(line) if status == 404 else CliError(line)


def failure(error: Exception, *, server: str) -> CliError:
    """A line about a server that cannot be reached, or that went away."""
    match error:
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.ProxyError():
            return CliError(
                f"{server} cannot be reached ({_cause(error)}): start it with casemate serve, or say where it is "
                "with --url or CASEMATE_URL"
            )
        case httpx2.TimeoutException():
            return CliError(f"{server} does not answer in time: look at its log, and whether the work was done")
        case _:
            return CliError(f"{server} went away in the middle ({_cause(error)}): look at its log, and try again")


def _cause(error: Exception) -> str:
    return plain(str(error))[:_SHOWN] or type(error).__name__


async def _said(response: httpx2.Response) -> Object | None:
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
