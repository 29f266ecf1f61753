"""What all models of a spec share: no unknown fields, no silent conversions."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_DAY_S = 86_400


class SpecModel(BaseModel):
    """A mapping of a spec.

    Attributes:
        form: The name of this form in a validator's path, for a model that is one of several forms of a mapping.
    """

    form: ClassVar[str] = ""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be on one line, without control characters")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"must be an absolute path of the guest, such as /workspace/data, got {value[:80]!r}")
    return value


Text = Annotated[str, StringConstraints(min_length=1)]
"""A text that is not empty."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
"""The name of a spec, a step or a box."""

GuestPath = Annotated[str, AfterValidator(_absolute)]
Seconds = Annotated[int, Field(ge=1, le=_DAY_S)]
