"""Forks: children made from one checkpoint, each a sandbox of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from storage.shown import shown

from ..errors import CasemateError, InvalidInput
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.volume_mount import VolumeMount
from ..volumes.volume import Attachment, Volume

MAX_FORKS = 100
_NAME_LENGTH = 253
_LABEL_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """The result for one child: a sandbox, or the error."""

    sandbox: Sandbox | None = None
    error: CasemateError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedVolume:
    """A volume of a parent, for its forks.

    Attributes:
        volume: The volume.
        attachment: How the parent has it.
        source: Its content when the parent was saved; None if the forks share it, because nobody can write to it.
    """

    volume: Volume
    attachment: Attachment
    source: Path | None = None


class ForkVolumes(StrEnum):
    """What forks get of their parent's volumes."""

    COPY = "copy"
    """A copy of each that the parent can write to; those that it can only read are shared."""
    NONE = "none"
    """Nothing."""


def mounts_of(volumes: Collection[ForkedVolume], copies: Collection[Volume]) -> list[VolumeMount]:
    """Return what one fork mounts: the copies that were made for it, and what all forks share."""
    own = {copy.source: copy.id for copy in copies}
    return [
        VolumeMount(
            volume=own.get(one.volume.id, one.volume.id),
            path=one.attachment.path,
            read_only=one.attachment.read_only,
        )
        for one in volumes
    ]


def check_count(count: int) -> None:
    """Refuse a number of children that is out of range.

    Raises:
        InvalidInput: It is not 1 to 100.
    """
    if not 1 <= count <= MAX_FORKS:
        raise InvalidInput(f"count must be 1 to {MAX_FORKS}, got {shown(count)}")


def child_names(name: str, taken: Collection[str], count: int) -> list[str]:
    """Name children after their parent, with the first free numbers, shortened to the limits of names."""
    names: list[str] = []
    number = 1
    while len(names) < count:
        ending = f"-{number}"
        head, dot, last = name.rpartition(".")
        space = min(_LABEL_LENGTH, _NAME_LENGTH - len(head + dot)) - len(ending)
        candidate = f"{head}{dot}{last[:space].rstrip('-')}{ending}"
        if candidate not in taken:
            names.append(candidate)
        number += 1
    return names
