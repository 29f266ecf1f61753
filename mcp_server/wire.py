"""How values look on the wire, in VoidRun's shapes: sandboxes, states, times, label selectors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vmm.errors import InvalidInput
from vmm.sandbox import State

if TYPE_CHECKING:
    from vmm.sandbox import Sandbox

_STATUS = {
    # Clients accept five words only. A machine in the making is not running yet and will be: that is "snapshotted".
    State.CREATING: "snapshotted",
    State.RUNNING: "running",
    State.ASLEEP: "snapshotted",
    State.ERROR: "error",
    State.KILLED: "killed",
    State.DELETED: "deleted",
}
_SHOWN = 80


def sandbox_object(sandbox: Sandbox) -> dict[str, Any]:
    """A sandbox as clients know it; its environment stays unsaid."""
    optional = {"labels": dict(sandbox.labels), "reason": sandbox.reason}
    return {
        "id": sandbox.id,
        "name": sandbox.name,
        "image": sandbox.image,
        "cpu": sandbox.cpu,
        "mem": sandbox.mem,
        "diskMB": sandbox.disk,
        "status": _STATUS[sandbox.state],
        "autoSleep": sandbox.auto_sleep,
        "createdAt": timestamp(sandbox.created_ms),
        "updatedAt": timestamp(sandbox.updated_ms),
        "createdBy": sandbox.created_by,
        "orgId": sandbox.owner,
        **{name: value for name, value in optional.items() if value},
    }


def compact(value: object) -> str:
    """JSON without blanks: what a model reads costs tokens."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def timestamp(milliseconds: int) -> str:
    """RFC 3339 in UTC from milliseconds since the epoch."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_selector(selector: str) -> dict[str, str]:
    """Labels to match from `key=value,key2=value2`.

    Raises:
        InvalidInput: A part is no pair.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in selector.split(","))):
        key, separator, value = part.partition("=")
        if not separator or not key.strip():
            raise InvalidInput(f"labels: {part[:_SHOWN]!r} is no label", hint="Write key=value,key2=value2")
        labels[key.strip()] = value.strip()
    return labels
