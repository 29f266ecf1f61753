"""Types of the JSON objects that `wire` makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NotRequired, TypeVar, cast

from pydantic import Field
from typing_extensions import TypedDict

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A time in UTC as RFC 3339."""

Id = Annotated[str, Field(json_schema_extra={"pattern": "^[0-9a-f]{24}$"})]
"""An id, which is 24 hexadecimal digits."""

Status = Literal["running", "snapshotted", "error", "killed", "deleted"]

T = TypeVar("T", bound=Mapping[str, object])


class NetworkEventObject(TypedDict):
    """A connection or lookup that a sandbox tried."""

    number: int
    time: Timestamp
    allowed: bool
    protocol: str
    host: str
    port: int
    reason: NotRequired[str]


class PublishedEntry(TypedDict):
    """A published port, as VoidRun's newest client reads it."""

    protocol: Literal["http", "tcp"]
    port: int


class SandboxDetails(TypedDict, total=False):
    """What only some sandboxes have."""

    ttlSeconds: int
    expiresAt: Timestamp
    leftSeconds: Annotated[int, Field(description="The rest of the time to live, without the time asleep.")]
    asleepSince: Timestamp
    unresponsive: Annotated[bool, Field(description="Whether its guest does not answer at the moment.")]
    snapshot: Annotated[str, Field(description="The snapshot that it was created from or last restored to.")]
    network: Annotated[str, Field(description="Its policy, if it has one of its own.")]
    memory: Annotated[str, Field(description="How the machine got its memory.")]
    labels: dict[str, str]
    region: Annotated[str, Field(description="As it was given at its creation.")]
    publishPorts: Annotated[list[int], Field(description="Its published ports.")]
    ports: Annotated[list[PublishedEntry], Field(description="The same, in the form of VoidRun's newest client.")]
    reason: Annotated[str, Field(description="Why it is in its state, and what was lost.")]
    networkLog: Annotated[list[NetworkEventObject], Field(description="Its last connections.")]


class SandboxObject(SandboxDetails):
    """A sandbox."""

    id: Id
    name: str
    image: str
    cpu: int
    mem: Annotated[int, Field(description="MiB")]
    diskMB: int
    status: Status
    autoSleep: bool
    idleSeconds: Annotated[int, Field(description="Seconds without use until it sleeps; 0 is never.")]
    createdAt: Timestamp
    updatedAt: Timestamp
    createdBy: str
    orgId: str


class SnapshotDetails(TypedDict, total=False):
    """What only some snapshots have."""

    parentId: Annotated[str, Field(description="The snapshot that its sandbox came from.")]
    labels: dict[str, str]
    damage: Annotated[str, Field(description="Why it is unusable.")]


class SnapshotObject(SnapshotDetails):
    """A snapshot."""

    id: str
    name: str
    sandboxId: Id
    sandboxName: str
    image: str
    cpu: int
    mem: Annotated[int, Field(description="MiB")]
    diskMB: int
    sizeBytes: int
    hypervisor: str
    createdAt: Timestamp
    createdBy: str
    orgId: str


class AttachmentObject(TypedDict):
    """How a sandbox has a volume."""

    sandboxId: Id
    path: str
    readOnly: bool


class VolumeObject(TypedDict):
    """A volume."""

    id: Id
    name: str
    sizeMB: Annotated[int, Field(description="MiB")]
    state: Literal["creating", "ready", "deleting"]
    attachments: list[AttachmentObject]
    sourceId: NotRequired[Annotated[str, Field(description="The volume that it was copied from.")]]
    createdAt: Timestamp
    createdBy: str
    orgId: str


class ForkFailed(TypedDict):
    """A copy that failed."""

    error: str
    hint: str


ForkObject = SandboxObject | ForkFailed
"""A copy of a sandbox, or why it failed."""


class PortObject(TypedDict):
    """A published port."""

    port: int
    url: str
    path: Annotated[str, Field(description="Where the server serves it, too.")]
    public: Annotated[bool, Field(description="Whether everybody may open it.")]
    expiresAt: NotRequired[Annotated[Timestamp, Field(description="When the URL stops working.")]]


class PublicUrl(TypedDict):
    """A URL that opens a published port in a browser."""

    port: int
    url: str
    expiresAt: NotRequired[Annotated[Timestamp, Field(description="When the URL stops working.")]]


def filled(optional: T) -> T:
    """Return an object without the fields that have an empty value."""
    return cast("T", {name: value for name, value in optional.items() if value})
