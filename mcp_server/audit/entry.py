"""What is known of the request and of the call that a task works for, so that code deep inside may add to it."""

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
    """A call while it runs. What it says at its end is recorded."""

    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    sandbox: str = ""
    decision: Decision = "allowed"
    status: int = 200
    reason: str = ""
    exit_code: int = NO_EXIT_CODE

    def refuse(self, reason: str) -> None:
        """The call was not allowed, or asked for what cannot be."""
        self.decision, self.reason = "refused", reason

    def refuse_arguments(self, error: ValidationError) -> None:
        """A model refused the caller's arguments. Its text repeats them, so only their names are kept."""
        names = [".".join(str(part) for part in problem["loc"])[:40] for problem in error.errors()[:_NAMES]]
        self.refuse(f"invalid_input: {', '.join(filter(None, names)) or 'arguments'}")

    def fail(self, error: BaseException) -> None:
        """The call ended with this error: its kind tells whether it was refused or failed."""
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
    """A request while it is served: who and from where, for the records of the calls in it.

    Attributes:
        address: Of the caller's host.
        request_id: As in the answer.
        state: The request's `scope["state"]`, into which the gate puts the principal.
        calls: How many calls in it have a record of their own.
    """

    address: str = ""
    request_id: str = ""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    calls: int = 0

    @property
    def principal(self) -> Principal | None:
        """Who calls, as far as is known yet."""
        return self.state.get("principal")


_entry: ContextVar[Entry | None] = ContextVar("audit_entry", default=None)
_request: ContextVar[AuditedRequest | None] = ContextVar("audit_request", default=None)


def annotate_call(*, exit_code: int | None = None, sandbox: str = "") -> None:
    """Add to the record of the call that this task works for; without effect where there is none.

    Args:
        exit_code: Of the command that the call ran; None while it is unknown.
        sandbox: The id of the sandbox that the call is about.
    """
    entry = _entry.get()
    if entry is not None:
        if exit_code is not None:
            entry.exit_code = exit_code
        if sandbox:
            entry.sandbox = sandbox


def current_request() -> AuditedRequest:
    """The request that this task works for; an empty one outside of requests."""
    return _request.get() or AuditedRequest()


@contextmanager
def use_entry(entry: Entry) -> Generator[None]:
    """Let this task, and those that it starts, work for the call."""
    token = _entry.set(entry)
    try:
        yield
    finally:
        _entry.reset(token)


@contextmanager
def use_request(request: AuditedRequest) -> Generator[None]:
    """Let this task, and those that it starts, work for the request."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)
