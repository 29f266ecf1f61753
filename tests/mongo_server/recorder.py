"""What the store asks of MongoDB, seen from inside the driver: whatever is not on the list was never tested."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

COMMANDS = {
    "aggregate",
    "createIndexes",
    "delete",
    "dropDatabase",
    "endSessions",
    "find",
    "getMore",
    "insert",
    "killCursors",
    "listCollections",
    "listIndexes",
    "update",
}
OPERATORS = {"$db", "$or", "$gt", "$gte", "$lt", "$in", "$exists", "$set", "$match", "$group", "$sum"}


class Recorder(CommandListener):
    """Collects commands and operators that are not on the lists.

    Attributes:
        seen: Names of all commands so far.
        strange: What was not on the lists.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.strange: set[str] = set()

    def started(self, event: CommandStartedEvent) -> None:
        self.seen.add(event.command_name)
        if event.command_name not in COMMANDS:
            self.strange.add(event.command_name)
        self.strange |= {name for name in _names(event.command) if name.startswith("$")} - OPERATORS

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing more to learn."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing more to learn."""


def _names(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            yield name
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _names(inner)
