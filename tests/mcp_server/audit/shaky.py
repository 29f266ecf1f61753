"""A real collection whose store can be taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from storage.collection import Collection, Document
from storage.errors import StoreUnavailable
from tests.storage.forwarding import ForwardingCollection, Kind


class Shaky(ForwardingCollection):
    """Passes everything on.

    Attributes:
        down: Every call fails.
        mute: Documents are stored, but the answer is lost.
        hangs: No call ever returns.
        batches: How many were to be written.
        arrived: How many answers arrived.
        lost: How many answers were lost.
    """

    def __init__(self, real: Collection) -> None:
        super().__init__(real)
        self.down = False
        self.mute = False
        self.hangs = False
        self.batches = 0
        self.arrived = self.lost = 0

    async def before(self, kind: Kind) -> None:
        if self.hangs:
            await anyio.sleep_forever()
        if self.down:
            raise StoreUnavailable("the store is away")

    async def insert(self, document: Mapping[str, Any]) -> Document:
        stored = await super().insert(document)
        self._answer()
        return stored

    async def insert_all(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        self.batches += 1
        there = await super().insert_all(documents)
        self._answer()
        return there

    def _answer(self) -> None:
        if self.mute:
            self.lost += 1
            raise StoreUnavailable("the answer was lost")
        self.arrived += 1
