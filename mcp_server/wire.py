"""JSON forms of sandboxes, snapshots, states, times and label selectors, in VoidRun's format."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vmm.errors import InvalidInput
from vmm.network.policy import Policy
from vmm.sandboxes.published import published_ports
from vmm.sandboxes.sandbox import State
from vmm.sandboxes.spec import DEFAULT_NETWORK
from vmm.volumes.volume import Attachment

from .image_names import tagged
from .shapes import filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.calls.network import SandboxNetwork
    from vmm.lifecycle.forks import Fork
    from vmm.machines.snapshots import Snapshot
    from vmm.network.log import NetworkEvent
    from vmm.sandboxes.sandbox import Sandbox
    from vmm.volumes.volume import Volume

    from .shapes import (
        ForkObject,
        NetworkEventObject,
        SandboxDetails,
        SandboxObject,
        SnapshotDetails,
        SnapshotObject,
        Status,
        VolumeObject,
    )

_STATUS: dict[State, Status] = {
    # Clients accept only five words. A sandbox that is being created will run soon, like one that is "snapshotted".
    State.CREATING: "snapshotted",
    State.RUNNING: "running",
    # Clients run nothing in an "error" sandbox, which is right meanwhile; the field `unresponsive` says what it is.
    State.UNRESPONSIVE: "error",
    State.ASLEEP: "snapshotted",
    State.ERROR: "error",
    State.KILLED: "killed",
    State.DELETED: "deleted",
}
_SHOWN = 80
_DESTINATIONS = 5


def limit_ms(seconds: float) -> int:
    """Convert a time limit to milliseconds. 0 means none, so limits below 1 ms become 1 ms."""
    return max(int(seconds * 1000), 1) if seconds else 0


def sandbox_object(sandbox: Sandbox) -> SandboxObject:
    """Convert a sandbox to its JSON form, without its environment; `network` only if it is not the operator's.

    Published ports are there in both of VoidRun's forms, as numbers and as objects.
    """
    ports = published_ports(sandbox)
    optional: SandboxDetails = {
        "ttlSeconds": sandbox.ttl_s,
        # Time asleep does not count against the ttl: there is no end time then, only a remaining time.
        "expiresAt": _moment(sandbox.expires_ms),
        "leftSeconds": -(-sandbox.left_ms // 1000),
        "asleepSince": _moment(sandbox.slept_ms) if sandbox.state is State.ASLEEP else "",
        "unresponsive": sandbox.state is State.UNRESPONSIVE,
        "snapshot": sandbox.base,
        "network": sandbox.network,
        "memory": sandbox.memory,
        "labels": dict(sandbox.labels),
        "region": sandbox.region,
        "publishPorts": [one.port for one in ports],
        "ports": [{"protocol": one.protocol, "port": one.port} for one in ports],
        "reason": sandbox.reason,
    }
    return {
        "id": sandbox.id,
        "name": sandbox.name,
        "image": tagged(sandbox.image),
        "cpu": sandbox.cpu,
        "mem": sandbox.mem,
        "diskMB": sandbox.disk,
        "status": _STATUS[sandbox.state],
        "autoSleep": sandbox.auto_sleep,
        "idleSeconds": sandbox.idle_s,
        "createdAt": timestamp(sandbox.created_ms),
        "updatedAt": timestamp(sandbox.updated_ms),
        "createdBy": sandbox.created_by,
        "orgId": sandbox.owner,
        **filled(optional),
    }


def sandbox_shown(sandbox: Sandbox) -> dict[str, Any]:
    """Convert a sandbox for models, which unlike clients know the status `unresponsive`, and need ports only once."""
    shown: dict[str, Any] = {**sandbox_object(sandbox)}
    shown.pop("ports", None)
    if shown.pop("unresponsive", False):
        shown["status"] = State.UNRESPONSIVE.value
    return shown


def network_shown(network: SandboxNetwork) -> dict[str, Any]:
    """Convert a sandbox's network for models: its policy, and the last destinations."""
    last = {
        "refused": network.destinations(allowed=False, most=_DESTINATIONS),
        "allowed": network.destinations(allowed=True, most=_DESTINATIONS),
    }
    return {
        "policy": network.policy.text(),
        "way": network.way,
        **({"address": str(network.address)} if network.address else {}),
        **{name: found for name, found in last.items() if found},
    }


def event_object(event: NetworkEvent) -> NetworkEventObject:
    """Convert a connection or lookup of a sandbox to its JSON form."""
    shown: NetworkEventObject = {
        "number": event.number,
        "time": timestamp(event.at_ms),
        "allowed": event.allowed,
        "protocol": event.protocol,
        "host": event.host,
        "port": event.port,
    }
    if event.reason:
        shown["reason"] = event.reason
    return shown


def parse_network(network: str | Sequence[str]) -> str:
    """Return the text of a policy that a caller wrote as one text or as a list.

    Raises:
        InvalidInput: The list is not a policy; a text is checked by the fleet.
    """
    if isinstance(network, str):
        return network.strip()
    return DEFAULT_NETWORK if list(network) == [DEFAULT_NETWORK] else Policy.parse(network).text()


def snapshot_object(snapshot: Snapshot) -> SnapshotObject:
    """Convert a snapshot to its JSON form.

    `parentId` is the snapshot that its sandbox was created from or last restored to; `damage` says why it is unusable.
    """
    optional: SnapshotDetails = {
        "parentId": snapshot.parent,
        "labels": dict(snapshot.labels),
        "damage": snapshot.damage,
    }
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "sandboxId": snapshot.sandbox,
        "sandboxName": snapshot.sandbox_name,
        "image": tagged(snapshot.image),
        "cpu": snapshot.cpu,
        "mem": snapshot.mem,
        "diskMB": snapshot.disk,
        "sizeBytes": snapshot.size,
        "hypervisor": snapshot.driver,
        "createdAt": timestamp(snapshot.created_ms),
        "createdBy": snapshot.created_by,
        "orgId": snapshot.owner,
        **filled(optional),
    }


def volume_object(volume: Volume) -> VolumeObject:
    """Convert a volume to its JSON form."""
    attached = ((sandbox_id, Attachment.of(text)) for sandbox_id, text in volume.attached.items())
    made: VolumeObject = {
        "id": volume.id,
        "name": volume.name,
        "sizeMB": volume.size,
        "state": volume.state.value,
        "attachments": [
            {"sandboxId": sandbox_id, "path": has.path, "readOnly": has.read_only} for sandbox_id, has in attached
        ],
        "createdAt": timestamp(volume.created_ms),
        "createdBy": volume.created_by,
        "orgId": volume.owner,
    }
    return {**made, "sourceId": volume.source} if volume.source else made


def fork_objects(forks: Sequence[Fork]) -> list[ForkObject]:
    """Convert the children of a fork: each a sandbox, or an error.

    Raises:
        CasemateError: All failed; the error of the first.
    """
    errors = [fork.error for fork in forks if fork.error is not None]
    if errors and len(errors) == len(forks):
        raise errors[0]
    return [_fork_object(fork) for fork in forks]


def compact(value: object) -> str:
    """Dump JSON without blanks, which would cost a model tokens."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def timestamp(milliseconds: int) -> str:
    """Format milliseconds since the epoch as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_selector(selector: str) -> dict[str, str]:
    """Parse a label selector such as `key=value,key2=value2`.

    Raises:
        InvalidInput: A part is not a pair.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in selector.split(","))):
        key, separator, value = part.partition("=")
        if not separator or not key.strip():
            raise InvalidInput(
                f'invalid label selector segment "{part[:_SHOWN]}": expected "key=value"',
                hint="Write labels=key=value,key2=value2",
            )
        labels[key.strip()] = value.strip()
    return labels


def _moment(milliseconds: int) -> str:
    return timestamp(milliseconds) if milliseconds else ""


def _fork_object(fork: Fork) -> ForkObject:
    if fork.sandbox is not None:
        return sandbox_object(fork.sandbox)
    assert fork.error is not None
    return {"error": fork.error.message, "hint": fork.error.hint}
