"""Problems that occur again and again, logged when they begin, change and end instead of each time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import structlog

from storage.errors import StoreError

from .errors import CasemateError

log = structlog.get_logger(__name__)


class RepeatedWarnings:
    """The current problems, by what they concern."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    @contextmanager
    def about(self, what: str, **more: str) -> Generator[None]:
        """Catch and log whatever fails in a block, so that the caller continues.

        Args:
            what: What failed, such as "machine not removed".
            more: The objects it concerns, as fields of the log.
        """
        try:
            yield
        except Exception as error:
            self.raised(error, what, **more)
        else:
            self.settled(what, **more)

    def raised(self, error: Exception, what: str, **more: str) -> None:
        """Log a failure, unless it is the one that was logged last."""
        error = _cause(error)
        key, reason = _key(what, more), f"{type(error).__name__}: {error}"
        if self._known.get(key) == reason:
            return
        self._known[key] = reason
        # An unexpected error is a defect, and finding it needs the traceback.
        foreseen = isinstance(error, CasemateError | StoreError | OSError)
        log.warning(what, reason=str(error) or reason, exc_info=None if foreseen else error, **more)

    def settled(self, what: str, **more: str) -> None:
        """Log that an earlier problem is over; a no-op if there was none."""
        if self._known.pop(_key(what, more), None) is not None:
            log.info(f"{what}: over", **more)


def _cause(error: Exception) -> Exception:
    """Return the error itself, out of the exception groups that task groups put around it."""
    members = cast("tuple[Exception, ...]", getattr(error, "exceptions", ()))  # of a group
    return _cause(members[0]) if len(members) == 1 else error


def _key(what: str, more: dict[str, str]) -> str:
    return " ".join((what, *more.values()))
