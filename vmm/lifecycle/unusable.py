"""Why a sandbox cannot be used, or not for that, in words for its owner."""

from __future__ import annotations

from ..errors import CasemateError, Conflict, NotFound, SandboxLost
from ..machines.snapshots import Snapshot
from ..sandboxes.sandbox import Sandbox, State

LOST = "its memory and running processes are lost"
"""What a machine's end means."""


def unreachable(sandbox: Sandbox) -> CasemateError:
    """Why a sandbox cannot be used."""
    if sandbox.state in {State.KILLED, State.RUNNING}:
        return lost(sandbox, sandbox.reason or "its virtual machine ended")
    match sandbox.state:
        case State.CREATING:
            return _being_created(sandbox)
        case State.ASLEEP:
            return Conflict(f"Sandbox {sandbox.id} is asleep", hint="Wake it: any command in it does")
        case State.DELETED:
            return NotFound(f"Sandbox {sandbox.id} is deleted", hint="List the sandboxes, or create one")
        case _:
            why = f": {sandbox.reason}" if sandbox.reason else ""
            return Conflict(
                f"Sandbox {sandbox.id} is in state {sandbox.state}{why}",
                hint="Start it again, restore one of its snapshots, or delete it",
            )


def check_made(sandbox: Sandbox) -> None:
    """Refuse what a sandbox cannot have done to it while it is being made.

    Raises:
        Conflict: It is.
    """
    if sandbox.state is State.CREATING:
        raise _being_created(sandbox)


def lost(sandbox: Sandbox, reason: str) -> SandboxLost:
    """That a sandbox's machine has died, and what that means."""
    return SandboxLost(
        f"Sandbox {sandbox.id} ({sandbox.name}) is lost: {reason}; {LOST}",
        hint="Restore one of its snapshots, start it again from its disk, or delete it",
    )


def check_same(sandbox: Sandbox, snapshot: Snapshot) -> None:
    """Refuse to put a sandbox back to a snapshot of another image or size.

    Raises:
        Conflict: It is one.
    """
    for what, own, other in (
        ("image", sandbox.image, snapshot.image),
        ("cpu", sandbox.cpu, snapshot.cpu),
        ("mem", sandbox.mem, snapshot.mem),
    ):
        if own != other:
            raise Conflict(
                f"snapshot: {snapshot.id} was taken with {what} {other}, and sandbox {sandbox.id} has {own}",
                hint="Create a new sandbox from the snapshot instead",
            )


def _being_created(sandbox: Sandbox) -> Conflict:
    return Conflict(
        f"Sandbox {sandbox.id} ({sandbox.name}) is still being created",
        hint="Wait until it is running, then call again, or delete it",
    )
