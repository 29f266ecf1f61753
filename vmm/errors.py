"""The one tree of errors below the edge. REST maps it once to status codes, MCP maps it once to error results."""

from __future__ import annotations

from typing import ClassVar


class CasemateError(Exception):
    """Anything that a caller should be told: what happened, and what to do next.

    Attributes:
        code: Stable machine-readable name, the same on every surface.
        message: What happened, with the offending field and value.
        hint: The way out; empty where the message already says it.
        retryable: Whether the same call may succeed later, unchanged.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InvalidInput(CasemateError):
    """A value was refused at the edge, before anything was touched."""

    code = "invalid_input"


class NotFound(CasemateError):
    """There is no such thing, or it belongs to somebody else: both get the same answer."""

    code = "not_found"


class Conflict(CasemateError):
    """The record changed meanwhile, or its state does not allow the call."""

    code = "conflict"


class LimitExceeded(CasemateError):
    """The owner's limit on sandboxes, vCPUs or memory would be passed."""

    code = "limit_exceeded"


class HostExhausted(CasemateError):
    """The host lacks memory or disk for this; what runs goes on unharmed."""

    code = "host_exhausted"
    retryable = True


class Unavailable(CasemateError):
    """A part that the call needs (hypervisor, image, store) cannot serve at the moment."""

    code = "unavailable"
    retryable = True


class Damaged(Unavailable):
    """What the host's disk holds of one thing cannot be used: the message names the file, the hint the way out."""

    retryable = False


class SandboxLost(CasemateError):
    """The virtual machine died; the message says why and what is lost."""

    code = "sandbox_lost"


class GuestError(CasemateError):
    """The guest refused the operation: the message is the guest's own reason."""

    code = "guest_error"


class GuestFileMissing(GuestError):
    """No file or directory at the path inside the sandbox."""

    code = "file_not_found"


class GuestFileRefused(GuestError):
    """The path exists but does not allow the operation: a directory where a file is needed, read-only, not empty."""

    code = "file_refused"


class GuestDiskFull(GuestError):
    """The sandbox's own disk is full."""

    code = "disk_full"


class ProcessMissing(GuestError):
    """No process or terminal of that id was started through Casemate in this sandbox."""

    code = "process_not_found"


class LinkError(CasemateError):
    """The guest could not be reached, or the connection broke during a call that may or may not have taken effect."""

    code = "link_error"
    retryable = True


class LinkTimeout(LinkError):
    """The guest did not answer within the call's deadline."""

    code = "link_timeout"
