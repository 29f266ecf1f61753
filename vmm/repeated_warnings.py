"""Troubles that are met again and again, logged when they begin, change and end, rather than each time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import structlog

from storage.errors import StoreError

from .errors import CasemateError

log = structlog.get_logger(__name__)


class RepeatedWarnings:
    """What is wrong at the moment, by what it is wrong with."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    @contextmanager
    def about(self, what: str, **more: str) -> Generator[None]:
        """Let nothing that goes wrong in a block reach those outside, and tell it.

        Args:
            what: What was tried, such as "machine not removed".
            more: With what, for the log.
        """
        try:
            yield
        except Exception as error:
            self.raised(error, what, **more)
        else:
            self.settled(what, **more)

    def raised(self, error: Exception, what: str, **more: str) -> None:
        """Tell a failure, unless it is the one that was told before."""
        error = _cause(error)
        key, reason = _key(what, more), f"{type(error).__name__}: {error}"
        if self._known.get(key) == reason:
            return
        self._known[key] = reason
        # What nobody foresaw is a defect: whoever mends it needs to know where.
        foreseen = isinstance(error, CasemateError | StoreError | OSError)
        log.warning(what, reason=str(error) or reason, exc_info=None if foreseen else error, **more)

    def settled(self, what: str, **more: str) -> None:
        """Tell that what failed before does not any more; a no-op if it did not."""
        if self._known.pop(_key(what, more), None) is not None:
            log.info(f"{what}: over", **more)


def _cause(error: Exception) -> Exception:
    """The error itself, below the groups of one that task groups put around it."""
    members = cast("tuple[Exception, ...]", getattr(error, "exceptions", ()))  # of a group
    return _cause(members[0]) if len(members) == 1 else error


def _key(what: str, more: dict[str, str]) -> str:
    return " ".join((what, *more.values()))
