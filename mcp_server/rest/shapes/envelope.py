"""Types of what is around the results of most routes; see `rest.envelope`."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

T = TypeVar("T")


class Done(TypedDict):
    """An answer without a result."""

    status: Literal["success"]
    message: Annotated[str, Field(description="What was done.")]


class Enveloped(TypedDict, Generic[T]):
    """An answer with its result."""

    status: Literal["success"]
    message: Annotated[str, Field(description="What was done.")]
    data: T


class PageMeta(TypedDict):
    """The position of a page in its list."""

    page: int
    limit: int
    total: int
    totalPages: int


class Paged(TypedDict, Generic[T]):
    """One page of a list."""

    status: Literal["success"]
    message: Annotated[str, Field(description="What was done.")]
    data: list[T]
    meta: PageMeta


class Problem(TypedDict):
    """An error."""

    error: Annotated[str, Field(description="What is wrong.")]
    details: NotRequired[Annotated[str, Field(description="How to fix it.")]]
    requestId: NotRequired[Annotated[str, Field(description="The id of the request in the server's log.")]]
    detail: NotRequired[
        Annotated[str | list[dict[str, Any]], Field(description="What is wrong, where clients of sandbox-api read it.")]
    ]
