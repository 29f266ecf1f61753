"""The record of a sandbox and its state machine: values only, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from ..errors import Conflict, Damaged
from .spec import DISK, IDLE_S, SandboxSpec, network_text


class State(StrEnum):
    """Where a sandbox is in its life."""

    CREATING = "creating"
    RUNNING = "running"
    UNRESPONSIVE = "unresponsive"
    """It runs, but its guest does not answer. Shown instead of running, never stored, because it may recover."""
    ASLEEP = "asleep"
    ERROR = "error"
    KILLED = "killed"
    DELETED = "deleted"

    @property
    def holds_memory(self) -> bool:
        """Whether a virtual machine in this state uses memory of the host."""
        return self in {State.CREATING, State.RUNNING, State.UNRESPONSIVE}

    def may_become(self, other: State) -> bool:
        """Tell whether the state machine has this step."""
        return other in _STEPS[self]


_STEPS: dict[State, frozenset[State]] = {
    State.CREATING: frozenset({State.RUNNING, State.ERROR, State.DELETED}),
    State.RUNNING: frozenset({State.ASLEEP, State.ERROR, State.KILLED, State.DELETED}),
    State.UNRESPONSIVE: frozenset(),
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
        owner: Opaque id; nobody else can see that the sandbox exists.
        mem, disk: MiB.
        env: Default environment of its commands; never shown.
        auto_sleep: Whether it may be put to sleep when idle.
        idle_s: Seconds without use before it may be put to sleep; 0 is never.
        ttl_s: Time to live in seconds as it was last set; 0 is no limit.
        expires_ms: When its time to live ends, while it runs; 0 is never.
        left_ms: Its remaining time to live while it sleeps, when none is used up; 0 is no limit.
        slept_ms: When it fell asleep; 0 while it is awake.
        active_ms: When it was last used, as far as recorded.
        wake_at_start: Whether the server put it to sleep when it stopped, so that the next start wakes it.
        machine: Its machine's directory; a new one after each restore.
        memory: How that machine got its memory (`Memory`); empty before it has any.
        base: The snapshot that it was created from or restored to; empty if none.
        network: Where it may connect to, as the text of a policy; empty for the operator's, whatever that is by then.
        region: What its creator named; it has no effect.
        published: How each published port may be opened (`PublishedPort`), by port.
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
    idle_s: int = IDLE_S
    ttl_s: int = 0
    expires_ms: int = 0
    left_ms: int = 0
    slept_ms: int = 0
    active_ms: int = 0
    wake_at_start: bool = False
    machine: str = ""
    memory: str = ""
    base: str = ""
    network: str = ""
    region: str = ""
    published: Mapping[str, str] = field(default_factory=dict[str, str])
    created_by: str = ""
    created_ms: int = 0
    updated_ms: int = 0
    reason: str = ""
    version: int = 1

    @classmethod
    def new(cls, sandbox_id: str, owner: str, spec: SandboxSpec, *, now_ms: int) -> Self:
        """Make the record of a sandbox that is about to be created."""
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
            idle_s=spec.idle_s,
            ttl_s=spec.ttl_s,
            expires_ms=now_ms + spec.ttl_s * 1000 if spec.ttl_s else 0,
            active_ms=now_ms,
            machine=sandbox_id,
            network=network_text(spec.network),
            region=spec.region,
            published=dict(spec.published),
            created_by=spec.created_by,
            created_ms=now_ms,
            updated_ms=now_ms,
        )

    def moved(self, to: State, *, now_ms: int, reason: str = "") -> Self:
        """Return the sandbox in another state.

        Raises:
            Conflict: The state machine has no such step.
        """
        if not self.state.may_become(to):
            raise Conflict(f"Sandbox {self.id} is {self.state}, it cannot become {to}")
        return replace(self, state=to, reason=reason, updated_ms=now_ms)

    def as_unresponsive(self, why: str) -> Self:
        """Return the sandbox as it is shown while its guest does not answer."""
        return replace(self, state=State.UNRESPONSIVE, reason=why)

    def document(self) -> dict[str, Any]:
        """Return the record as the store keeps it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["id"]
        return {
            **values,
            "_id": self.id,
            "state": self.state.value,
            "labels": dict(self.labels),
            "env": dict(self.env),
            "published": dict(self.published),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the record from a document of the store. Fields that a later release wrote are ignored.

        Raises:
            Damaged: A field that every record has is missing, or has the wrong type.
        """
        values: dict[str, Any] = {name: document[name] for name in _KINDS if name in document}
        wrong = _wrong(values)
        if wrong:
            raise Damaged(
                f"The record of sandbox {str(document['_id'])[:80]} is damaged: {wrong}",
                hint="Tell the operator: it is in the store, and a later release may have written it",
            )
        values |= {"id": document["_id"], "state": State(values["state"])}
        return cls(**values)


def _wrong(values: Mapping[str, Any]) -> str:
    missing = sorted(_NEEDED - values.keys())
    if missing:
        return f"it has no {', '.join(missing)}"
    others = sorted(name for name, value in values.items() if not isinstance(value, _KINDS[name]))
    if others:
        return f"its {', '.join(others)} has the wrong type"
    if values["state"] not in set(State):
        return f"this release knows no state {values['state'][:80]!r}"
    # It becomes a path, and everything below that is deleted with the sandbox.
    return "" if _MACHINE.fullmatch(values["machine"]) else "its machine is not a directory name"


_MACHINE = re.compile(r"[\w-]+")
_BY_TYPE: dict[str, type] = {"str": str, "int": int, "bool": bool, "State": str, "Mapping[str, str]": dict}
_KINDS = {field.name: _BY_TYPE[str(field.type)] for field in fields(Sandbox) if field.name != "id"}
_NEEDED = {field.name for field in fields(Sandbox) if field.default is MISSING and field.default_factory is MISSING} - {
    "id"
} | {"machine", "version"}
