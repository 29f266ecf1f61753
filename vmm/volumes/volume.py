"""The record of a volume, and who may attach it: values only, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from storage.shown import shown

from ..errors import Conflict, Damaged, InvalidInput
from ..hypervisor.volume_disk import SERIAL_LENGTH

SIZE_RANGE = (64, 16 * 1024)
"""MiB. A hypervisor may write files of up to 20 GiB."""
SIZE = 1024
"""MiB of a volume whose creator names no size."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_READ_ONLY, _READ_WRITE = "ro", "rw"


class VolumeState(StrEnum):
    """Where a volume is in its life."""

    CREATING = "creating"
    """Its file is being made; a server that starts removes what is left of it."""
    READY = "ready"
    DELETING = "deleting"
    """Its file is being removed; a server that starts finishes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """How one sandbox has a volume."""

    path: str
    read_only: bool

    @property
    def mode(self) -> str:
        """In words, for messages."""
        return "read-only" if self.read_only else "read-write"

    def text(self) -> str:
        """Return it as the record keeps it."""
        return f"{_READ_ONLY if self.read_only else _READ_WRITE} {self.path}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Read it from the record."""
        mode, _, path = text.partition(" ")
        return cls(path=path, read_only=mode == _READ_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The record of a volume.

    Attributes:
        id: 24 hex digits that sort by creation; also the name of its file.
        owner: Opaque id; nobody else can see that the volume exists.
        name: A DNS label that no other volume of the owner has.
        size: MiB; the file is sparse.
        attached: How each sandbox that has it has it (`Attachment`), by the sandbox's id. A sandbox keeps it while it
            sleeps.
        source: The volume that it was copied from; empty if none.
        made_for: The sandbox that it was copied for, until that is created; if it never is, the volume is removed.
        version: Grows by one with each change; a change must name the version that it saw.
    """

    id: str
    owner: str
    name: str
    size: int
    state: VolumeState
    attached: Mapping[str, str] = field(default_factory=dict[str, str])
    source: str = ""
    made_for: str = ""
    created_by: str = ""
    created_ms: int = 0
    updated_ms: int = 0
    version: int = 1

    @property
    def serial(self) -> str:
        """The serial number of its disk in a guest: of the id, what differs between volumes of one second, too."""
        return self.id[-SERIAL_LENGTH:]

    @property
    def writer(self) -> str:
        """The id of the sandbox that has it read-write; empty if none has."""
        return next((one for one, text in self.attached.items() if not Attachment.of(text).read_only), "")

    def attachment(self, sandbox_id: str) -> Attachment | None:
        """Return how a sandbox has it; None if it does not."""
        text = self.attached.get(sandbox_id)
        return None if text is None else Attachment.of(text)

    def with_sandbox(self, sandbox_id: str, wanted: Attachment, names: Mapping[str, str]) -> Self:
        """Return the volume attached to one more sandbox.

        Args:
            sandbox_id: The sandbox.
            wanted: How it gets it.
            names: The names of the sandboxes that have it, by id, for messages.

        Raises:
            Conflict: It is attached in a way that excludes this; the message names the sandboxes.
        """
        self.check_ready()
        for other, text in self.attached.items():
            has = Attachment.of(text)
            if other == sandbox_id:
                raise Conflict(
                    f"Volume {self.name} is already attached to this sandbox, {has.mode} at {has.path}",
                    hint="Detach it first to change how it is attached",
                )
            if not (has.read_only and wanted.read_only):
                raise Conflict(
                    f"Volume {self.name} is attached {has.mode} to sandbox {names.get(other, other)} ({other}), so it "
                    f"cannot be attached {wanted.mode} to another one",
                    hint="One sandbox may have it read-write, or several read-only: detach it there first",
                )
        return replace(self, attached={**self.attached, sandbox_id: wanted.text()})

    def without_sandbox(self, sandbox_id: str) -> Self:
        """Return the volume as it is without a sandbox."""
        return replace(self, attached={one: text for one, text in self.attached.items() if one != sandbox_id})

    def deleting(self, names: Mapping[str, str]) -> Self:
        """Return the volume as it is while it is deleted.

        Raises:
            Conflict: A sandbox has it; the message names it.
        """
        if self.state is VolumeState.CREATING:
            self.check_ready()
        if self.attached:
            users = ", ".join(f"{names.get(one, one)} ({one})" for one in self.attached)
            raise Conflict(
                f"Volume {self.name} is attached to sandbox {users}", hint="Detach it, or delete the sandbox first"
            )
        return replace(self, state=VolumeState.DELETING)

    def check_ready(self) -> None:
        """Refuse a volume that is being made or removed.

        Raises:
            Conflict: It is.
        """
        if self.state is not VolumeState.READY:
            doing = "created" if self.state is VolumeState.CREATING else "deleted"
            raise Conflict(f"Volume {self.name} is being {doing}", hint="Try again in a moment")

    def document(self) -> dict[str, Any]:
        """Return the record as the store keeps it."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "id"}
        return {**values, "_id": self.id, "state": self.state.value, "attached": dict(self.attached)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the record from a document of the store. Fields that a later release wrote are ignored.

        Raises:
            Damaged: A field that every record has is missing, or has the wrong type.
        """
        values: dict[str, Any] = {name: document[name] for name in _KINDS if name in document}
        wrong = sorted(_NEEDED_FIELDS - values.keys()) or [
            name for name, value in values.items() if not isinstance(value, _KINDS[name])
        ]
        # The id becomes a file's name.
        if wrong or values["state"] not in set(VolumeState) or not _ID.fullmatch(str(document["_id"])):
            raise Damaged(
                f"The record of volume {str(document['_id'])[:80]} is damaged: {', '.join(wrong) or 'state or id'}",
                hint="Tell the operator: it is in the store, and a later release may have written it",
            )
        values |= {"id": document["_id"], "state": VolumeState(values["state"])}
        return cls(**values)


def check_name(name: str) -> None:
    """Refuse a name that is not a DNS label.

    Raises:
        InvalidInput: The message shows it.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"name must be a DNS label such as my-data, got {shown(name)}",
            hint="Use 1 to 63 lower-case letters, digits and '-', with a letter or digit at both ends",
        )


def check_size(size: int) -> None:
    """Refuse a size that is out of range.

    Raises:
        InvalidInput: The message shows it.
    """
    low, high = SIZE_RANGE
    if not low <= size <= high:
        raise InvalidInput(f"size must be {low} to {high} MiB, got {shown(size)}")


_ID = re.compile(r"[0-9a-f]{24}")
_BY_TYPE: dict[str, type] = {"str": str, "int": int, "VolumeState": str, "Mapping[str, str]": dict}
_KINDS = {field.name: _BY_TYPE[str(field.type)] for field in fields(Volume) if field.name != "id"}
_NEEDED_FIELDS = {
    field.name for field in fields(Volume) if field.default is MISSING and field.default_factory is MISSING
} - {"id"} | {"version"}
