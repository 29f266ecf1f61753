"""Unwraps the exception groups that task groups put around an error."""

from __future__ import annotations

from typing import cast


def only_member(error: BaseException) -> BaseException | None:
    """Return the only member of a group; None for other exceptions, and for groups of several."""
    if not isinstance(error, BaseExceptionGroup):
        return None
    members = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return members[0] if len(members) == 1 else None


def cause_of(error: BaseException) -> BaseException:
    """Return the error itself, without the groups of one around it."""
    while (inner := only_member(error)) is not None:
        error = inner
    return error
