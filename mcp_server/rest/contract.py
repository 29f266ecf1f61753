"""What a handler takes and answers, declared beside it, for the API's description and for the tests of its answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .shapes.commands import Event

_ATTRIBUTE = "rest_contract"

JSON = "application/json"

GUEST = frozenset({404, 409, 502, 504, 507, 529})
"""Statuses of a refused call that reaches into a sandbox, or changes its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A body that is not JSON.

    Attributes:
        type: Its media type.
        description: What it consists of.
        field: The field of a form that has the content; empty if the content is the body itself.
        part: The type of each part of a stream; None if it has no parts.
    """

    type: str
    description: str
    field: str = ""
    part: type[Any] | None = None


BYTES = "application/octet-stream"

EVENTS = Media(
    type="text/event-stream",
    description="The events `stdout` and `stderr`, then `exit` with JSON: `exitCode`, and `error` if there was one.",
    part=Event,
)
"""A command's output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a handler takes and answers.

    Attributes:
        answers: By status, the content of each successful answer: a type of JSON, a Media, or several of them.
        query: The model of the query.
        body: The model of the JSON body, or the media types that the body may have.
        refusals: Statuses of its errors, besides those that every handler has.
        yields: Parameters of other routes that the first answer has, with a JSON pointer to each.
    """

    answers: Mapping[int, tuple[object, ...]]
    query: type[Any] | None = None
    body: type[Any] | tuple[Media, ...] | None = None
    refusals: Collection[int] = ()
    yields: Mapping[str, str] = field(default_factory=dict[str, str])


H = TypeVar("H", bound=Callable[..., Any])


def contract(
    *answer: object,
    status: int = 200,
    others: Mapping[int, object] | None = None,
    query: type[Any] | None = None,
    body: type[Any] | tuple[Media, ...] | None = None,
    refusals: Collection[int] = (),
    yields: Mapping[str, str] | None = None,
) -> Callable[[H], H]:
    """Declare what a handler takes and answers.

    Args:
        answer: The content of its usual answer; several if the request chooses, none if it has none.
        status: The status of that answer.
        others: The content of successful answers with other statuses.
        query: The model that it reads the query with.
        body: The model that it reads the JSON body with, or the media types that the body may have.
        refusals: Statuses of its errors, besides those that every handler has.
        yields: Parameters of other routes that the answer has, with a JSON pointer to each.
    """
    made = Contract(
        answers={status: answer, **{number: (content,) for number, content in (others or {}).items()}},
        query=query,
        body=body,
        refusals=refusals,
        yields=yields or {},
    )

    def mark(handler: H) -> H:
        setattr(handler, _ATTRIBUTE, made)
        return handler

    return mark


def contract_of(handler: Callable[..., Any]) -> Contract | None:
    """Return what a handler declares; a function that wraps it with `functools.wraps` declares the same."""
    return getattr(handler, _ATTRIBUTE, None)
