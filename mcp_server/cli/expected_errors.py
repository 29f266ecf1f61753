"""Errors that a user can do something about: their messages are printed instead of a traceback."""

from __future__ import annotations

from typing import cast

from auth.errors import AuthError
from mcp_server.settings import SettingsRefused
from runs.specs.faults import SpecRefused
from storage.errors import StoreError
from vmm.errors import CasemateError

from ..data_dir_lock import DataDirInUse
from ..http.serve import PortRefused
from ..observability.tracing import TracingRefused
from .console import CliError

EXPECTED_ERRORS = (
    CliError,
    SpecRefused,
    SettingsRefused,
    DataDirInUse,
    PortRefused,
    TracingRefused,
    CasemateError,
    StoreError,
    AuthError,
)


def messages_of(error: BaseException) -> list[str]:
    """Return the lines of an expected error, or of a group of such; none if an unexpected one is among them."""
    if not isinstance(error, BaseExceptionGroup):
        return str(error).splitlines() if isinstance(error, EXPECTED_ERRORS) else []
    lines: list[str] = []
    for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        found = messages_of(member)
        if not found:
            return []
        lines += found
    return lines
