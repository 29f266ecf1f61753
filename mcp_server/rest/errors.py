"""Maps exceptions to REST answers: a status, and `{"error", "details", "requestId"}`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from auth.errors import AuthError, Conflict, Denied, Missing, TooManyTickets
from storage.errors import StoreError, StoreFull
from storage.shown import shown
from vmm.errors import CasemateError, InvalidInput

from ..http.causes import cause_of
from ..http.problem import problem

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails
    from starlette.responses import Response

BY_CODE = {
    "invalid_input": 400,
    "limit_exceeded": 403,
    "not_found": 404,
    "file_not_found": 404,
    "process_not_found": 404,
    "conflict": 409,
    "file_refused": 409,
    "guest_error": 409,
    "sandbox_lost": 409,
    "link_error": 502,
    "unavailable": 503,
    "link_timeout": 504,
    "disk_full": 507,
    # VoidRun's status for a host without room for another machine.
    "host_exhausted": 529,
}
"""HTTP status by the code of a `CasemateError`; 500 for other codes."""

BY_TYPE: dict[type[Exception], int] = {Missing: 404, Denied: 403, Conflict: 409, TooManyTickets: 429, AuthError: 400}
"""HTTP status by the class of an `AuthError`; other classes have their base's status."""

_RETRY_AFTER_S = "2"
_SHOWN = 80
_PROBLEMS = 5
_log = structlog.stdlib.get_logger("casemate.rest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error answer.

    Attributes:
        status: HTTP status.
        error: What is wrong.
        details: How to fix it; empty if `error` says it.
        headers: Headers of the answer.
    """

    status: int
    error: str
    details: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def worded(self, error: str) -> Refusal:
        """Return the same refusal under other words, with its own as the details."""
        return replace(self, error=error, details=f"{self.error}. {self.details}" if self.details else self.error)

    def answer(self) -> Response:
        """Build the HTTP response."""
        answer = problem(self.status, self.error, self.details)
        answer.headers.update(self.headers)
        return answer


def refusal_of(error: BaseException) -> Refusal | None:
    """Map an exception to an error answer; None for unexpected ones."""
    error = cause_of(error)
    refusal: Refusal | None = None
    match error:
        case CasemateError():
            refusal = _refusal(BY_CODE.get(error.code, 500), error.message, error.hint, retryable=error.retryable)
        case AuthError():
            status = next(BY_TYPE[kind] for kind in type(error).__mro__ if kind in BY_TYPE)
            refusal = Refusal(status=status, error=str(error), details=error.details)
        case StoreError():
            _log.error("store failed", reason=error.message)
            status = 503 if error.retryable else 507 if isinstance(error, StoreFull) else 500
            refusal = _refusal(status, "The server's store failed", error.message, retryable=error.retryable)
        case HTTPException():
            refusal = Refusal(status=error.status_code, error=error.detail, headers=error.headers or {})
        case ClientDisconnect():
            refusal = Refusal(status=400, error="The client disconnected")
        case TimeoutError():
            refusal = Refusal(status=504, error="The server timed out", details="Try again")
        case _:
            pass
    return refusal


def invalid(error: ValidationError, *, redacted: Collection[str] = ()) -> InvalidInput:
    """Combine validation errors into one: each field with its value, shortened, and what was expected.

    Args:
        error: The errors of the model.
        redacted: Fields whose values may be secrets, and are left out.
    """
    problems = error.errors(include_url=False)
    lines = [_line(details, redacted) for details in problems[:_PROBLEMS]]
    if len(problems) > _PROBLEMS:
        lines.append(f"{len(problems) - _PROBLEMS} more")
    return InvalidInput("; ".join(lines))


def _refusal(status: int, error: str, details: str, *, retryable: bool) -> Refusal:
    wait = retryable and status in {503, 529}
    return Refusal(status=status, error=error, details=details, headers={"retry-after": _RETRY_AFTER_S} if wait else {})


def _line(details: ErrorDetails, redacted: Collection[str]) -> str:
    path = [str(part) for part in details["loc"]]
    name = ".".join(path)[:_SHOWN] or "The body"
    if details["type"] == "missing":
        return f"{name} is required"
    message = details["msg"].removeprefix("Value error, ")
    if path and path[0] in redacted:
        return f"{name}: {message}"
    return f"{name}={shown(details['input'])}: {message}"
