"""Types of what belongs to a sandbox in answers: its usage, its network, its ports, and images."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from mcp_server.shapes import SandboxObject, Timestamp

from .envelope import Done


class Restored(Done):
    """A sandbox that was restored to a snapshot, or woken, which has no result."""

    data: NotRequired[SandboxObject]


class UsageObject(TypedDict):
    """What a sandbox uses, as its kernel reports it; memory and disk in bytes."""

    uptimeMs: int
    memoryTotal: int
    memoryAvailable: int
    diskTotal: int
    diskFree: int
    cpuUsedMs: int
    processes: int


class NetworkObject(TypedDict):
    """A sandbox's way to the network."""

    policy: Annotated[str, Field(description="The policy in force.")]
    own: Annotated[bool, Field(description="Whether it is the sandbox's own, not the operator's.")]
    way: Annotated[str, Field(description="How it reaches the network.")]
    address: NotRequired[str]
    allowed: Annotated[int, Field(description="Number of connections.")]
    refused: Annotated[int, Field(description="Number of connections.")]
    suggestion: Annotated[str, Field(description="The smallest policy that would have allowed what was allowed.")]


class ImageObject(TypedDict):
    """What sandboxes are created from."""

    id: str
    name: str
    tag: str
    sizeGB: int
    system: bool
    active: bool
    orgId: str
    createdAt: NotRequired[Timestamp]
    createdBy: str


class TemplateObject(TypedDict):
    """What sandboxes of one image and size are cloned from."""

    image: str
    cpu: int
    mem: Annotated[int, Field(description="MiB")]


class VersionObject(TypedDict):
    """The version of the server."""

    version: str
    commit: str
    buildTime: str
