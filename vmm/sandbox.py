"""A sandbox's record and its state machine: values only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from .errors import Conflict
from .spec import DISK, SandboxSpec


class State(StrEnum):
    """Where a sandbox is in its life."""

    CREATING = "creating"
    RUNNING = "running"
    ASLEEP = "asleep"
    ERROR = "error"
    KILLED = "killed"
    DELETED = "deleted"

    @property
    def holds_memory(self) -> bool:
        """Whether a virtual machine of this state takes memory of the host."""
        return self in {State.CREATING, State.RUNNING}

    def may_become(self, other: State) -> bool:
        """Whether the state machine has this step."""
        return other in _STEPS[self]


_STEPS: dict[State, frozenset[State]] = {
    State.CREATING: frozenset({State.RUNNING, State.ERROR, State.DELETED}),
    State.RUNNING: frozenset({State.ASLEEP, State.ERROR, State.KILLED, State.DELETED}),
    State.ASLEEP: frozenset({State.RUNNING, State.ERROR, State.KILLED, State.DELETED}),
    State.ERROR: frozenset({State.RUNNING, State.DELETED}),
    State.KILLED: frozenset({State.RUNNING, State.DELETED}),
    State.DELETED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The record of a sandbox.

    Attributes:
        id: 24 hex digits that sort by creation.
        owner: Opaque id; nobody else ever learns that the sandbox exists.
        mem, disk: MiB.
        env: Default environment of its commands; never shown.
        reason: Why it is in its state and what is lost; empty for a healthy one.
        version: Grows by one with each change; a change must name the version that it saw.
    """

    id: str
    owner: str
    name: str
    image: str
    cpu: int
    mem: int
    disk: int
    state: State
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    auto_sleep: bool = True
    created_by: str = ""
    created_ms: int = 0
    updated_ms: int = 0
    reason: str = ""
    version: int = 1

    @classmethod
    def new(cls, sandbox_id: str, owner: str, spec: SandboxSpec, *, now_ms: int) -> Self:
        """The record of a sandbox that is about to be made."""
        return cls(
            id=sandbox_id,
            owner=owner,
            name=spec.name,
            image=spec.image,
            cpu=spec.cpu,
            mem=spec.mem,
            disk=DISK,
            state=State.CREATING,
            labels=dict(spec.labels),
            env=dict(spec.env),
            auto_sleep=spec.auto_sleep,
            created_by=spec.created_by,
            created_ms=now_ms,
            updated_ms=now_ms,
        )

    def moved(self, to: State, *, now_ms: int, reason: str = "") -> Self:
        """The same sandbox in another state.

        Raises:
            Conflict: The state machine has no such step.
        """
        if not self.state.may_become(to):
            raise Conflict(f"Sandbox {self.id} is {self.state}, it cannot become {to}")
        return replace(self, state=to, reason=reason, updated_ms=now_ms)

    def document(self) -> dict[str, Any]:
        """The record as the store keeps it."""
        return {
            "_id": self.id,
            "version": self.version,
            "owner": self.owner,
            "name": self.name,
            "image": self.image,
            "cpu": self.cpu,
            "mem": self.mem,
            "disk": self.disk,
            "state": self.state.value,
            "labels": dict(self.labels),
            "env": dict(self.env),
            "auto_sleep": self.auto_sleep,
            "created_by": self.created_by,
            "created_ms": self.created_ms,
            "updated_ms": self.updated_ms,
            "reason": self.reason,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The record from what the store keeps."""
        values: dict[str, Any] = {**document, "id": document["_id"], "state": State(document["state"])}
        del values["_id"]
        return cls(**values)
