"""The audit's context: the current request and call of a task, so that inner code can add to their records."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storage.errors import StoreError
from vmm.errors import CasemateError

from .record import NO_EXIT_CODE, Decision

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from pydantic import ValidationError

    from auth.principal import Principal

_NAMES = 5
_OWN_FAULT = frozenset({"invalid_input", "not_found", "conflict", "limit_exceeded"})


@dataclass(slots=True)
class Entry:
    """The audit entry of a running call. It is recorded when the call ends."""

    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    sandbox: str = ""
    decision: Decision = "allowed"
    status: int = 200
    reason: str = ""
    exit_code: int = NO_EXIT_CODE

    def refuse(self, reason: str) -> None:
        """Mark the call as refused: it was not allowed, or its arguments were invalid."""
        self.decision, self.reason = "refused", reason

    def refuse_arguments(self, error: ValidationError) -> None:
        """Mark the call as refused by validation. The error's text repeats the arguments, so only names are kept."""
        names = [".".join(str(part) for part in problem["loc"])[:40] for problem in error.errors()[:_NAMES]]
        self.refuse(f"invalid_input: {', '.join(filter(None, names)) or 'arguments'}")

    def fail(self, error: BaseException) -> None:
        """Mark the call as refused or failed, depending on the error that ended it."""
        if isinstance(error, CasemateError):
            self.decision = "refused" if error.code in _OWN_FAULT else "failed"
            self.reason = f"{error.code}: {error.message}"
        elif isinstance(error, StoreError):
            self.decision, self.reason = "failed", f"store: {error.message}"
        elif isinstance(error, Exception):
            self.decision, self.reason = "failed", type(error).__name__
        else:
            self.decision, self.reason = "failed", "cancelled"


@dataclass(slots=True)
class AuditedRequest:
    """A request that is being served: its caller and address, for the records of its calls.

    Attributes:
        address: Address of the caller's host.
        request_id: The request id of the answer.
        state: The request's `scope["state"]`, into which the gate puts the principal.
        calls: The number of its calls that have their own record.
    """

    address: str = ""
    request_id: str = ""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    calls: int = 0

    @property
    def principal(self) -> Principal | None:
        """The caller; None before the request is authenticated."""
        return self.state.get("principal")


_entry: ContextVar[Entry | None] = ContextVar("audit_entry", default=None)
_request: ContextVar[AuditedRequest | None] = ContextVar("audit_request", default=None)


def annotate_call(*, exit_code: int | None = None, sandbox: str = "") -> None:
    """Add details to the record of the current call; without effect outside of a call.

    Args:
        exit_code: Exit code of the command that the call ran; None while it is unknown.
        sandbox: Id of the call's sandbox.
    """
    entry = _entry.get()
    if entry is not None:
        if exit_code is not None:
            entry.exit_code = exit_code
        if sandbox:
            entry.sandbox = sandbox


def current_request() -> AuditedRequest:
    """Return the current request; an empty one outside of requests."""
    return _request.get() or AuditedRequest()


@contextmanager
def use_entry(entry: Entry) -> Generator[None]:
    """Make this call the current one of the task, and of the tasks that it starts."""
    token = _entry.set(entry)
    try:
        yield
    finally:
        _entry.reset(token)


@contextmanager
def use_request(request: AuditedRequest) -> Generator[None]:
    """Make this request the current one of the task, and of the tasks that it starts."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)
