"""All errors below the API, in one tree. REST maps them once to status codes, MCP maps them once to error results.

CasemateError                 internal          any failure that a caller should know about
|-- InvalidInput              invalid_input     a value was refused
|-- NotFound                  not_found         no such thing, or somebody else's
|-- Conflict                  conflict          the state does not allow the call
|-- LimitExceeded             limit_exceeded    the owner has reached a limit
|-- HostExhausted             host_exhausted    the host lacks memory or disk space     (retryable)
|-- Unavailable               unavailable       a part of the server does not work      (retryable)
|   `-- Damaged               unavailable       a file or record cannot be used         (not retryable)
|-- SandboxLost               sandbox_lost      the virtual machine died
|-- GuestError                guest_error       the guest refused the operation
|   |-- GuestFileMissing      file_not_found    no such file
|   |-- GuestFileRefused      file_refused      the file does not allow it
|   |-- GuestDiskFull         disk_full         the sandbox's disk is full
|   `-- ProcessMissing        process_not_found no such process or terminal
`-- LinkError                 link_error        the connection to the guest broke       (retryable)
    `-- LinkTimeout           link_timeout      the guest did not answer in time        (retryable)

The second column is the error's `code`.
"""

from __future__ import annotations

from typing import ClassVar


class CasemateError(Exception):
    """Any failure that a caller should know about: what happened, and what to do next.

    Attributes:
        code: Stable machine-readable name, the same on every surface.
        message: What happened, with the field and its value.
        hint: What to do next; empty where the message already says it.
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
    """A value was refused, before anything was changed."""

    code = "invalid_input"


class NotFound(CasemateError):
    """There is no such thing, or it belongs to somebody else: both get the same answer."""

    code = "not_found"


class Conflict(CasemateError):
    """The record was changed by another call, or its state does not allow this one."""

    code = "conflict"


class LimitExceeded(CasemateError):
    """The call would exceed the owner's limit on sandboxes, vCPUs, memory, disk, snapshots or volumes."""

    code = "limit_exceeded"


class HostExhausted(CasemateError):
    """The host lacks memory or disk space for the call; everything that runs goes on."""

    code = "host_exhausted"
    retryable = True


class Unavailable(CasemateError):
    """A part that the call needs (hypervisor, image, store) does not work at the moment."""

    code = "unavailable"
    retryable = True


class Damaged(Unavailable):
    """A file or record on the host cannot be used: the message names it, the hint says what to do."""

    retryable = False


class SandboxLost(CasemateError):
    """The virtual machine died; the message says why and what is lost."""

    code = "sandbox_lost"


class GuestError(CasemateError):
    """The guest refused the operation: the message is the reason that the guest gave."""

    code = "guest_error"


class GuestFileMissing(GuestError):
    """There is no file or directory at the path inside the sandbox."""

    code = "file_not_found"


class GuestFileRefused(GuestError):
    """The path exists but does not allow the operation: a directory where a file is needed, read-only, not empty."""

    code = "file_refused"


class GuestDiskFull(GuestError):
    """The sandbox's own disk is full."""

    code = "disk_full"


class ProcessMissing(GuestError):
    """No process or terminal with that id was started through Casemate in this sandbox."""

    code = "process_not_found"


class LinkError(CasemateError):
    """The guest could not be reached, or the connection broke during a call that may or may not have taken effect."""

    code = "link_error"
    retryable = True


class LinkTimeout(LinkError):
    """The guest did not answer within the call's deadline."""

    code = "link_timeout"
