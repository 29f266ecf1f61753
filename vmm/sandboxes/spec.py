"""What a caller may request of a new sandbox, checked before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from storage.shown import shown

from ..errors import InvalidInput
from ..network.policy import Policy
from .volume_mount import VolumeMount, check_mounts

CPU_RANGE = (1, 8)
MEM_RANGE = (256, 16384)
"""MiB."""
DISK = 10 * 1024
"""MiB of sparse writable disk, the same for every sandbox."""
IDLE_S = 300
"""Seconds without use before a sandbox may be put to sleep, unless the caller sets another value."""

DEFAULT_NETWORK = "default"
"""Stands for the operator's policy where a request names a network."""

NAME_LENGTH = 253
_REGION_LENGTH = 100
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_LABELS = 5
_LABEL_LENGTH = 20
_LABEL_KEY = re.compile(r"[a-z0-9]([-a-z0-9_]*[a-z0-9])?")
_ENVNAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ENV_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """A request for a sandbox.

    Attributes:
        name: DNS-1123 subdomain; need not be unique.
        image: Name of a base image.
        cpu: Virtual CPUs, 1 to 8.
        mem: Memory in MiB, 256 to 16384.
        labels: At most 5 short pairs to find it by.
        env: Default environment of its commands.
        auto_sleep: Whether it may be put to sleep when idle.
        idle_s: Seconds without use before that; 0 is never.
        ttl_s: Time to live in seconds, not counted while it sleeps; 0 is no limit.
        snapshot: Name or id of the snapshot to create it from, with the image and size of that; empty for a fresh one.
        network: Where it may connect to, as the text of a policy; `default` is the operator's policy. Empty is that of
            the snapshot, and without a snapshot the operator's.
        region: Kept for the caller, and shown; there is one host, so it chooses nothing.
        published: Its published ports, as in the record (`published.new_entries`).
        volumes: The volumes that it has from the start.
        created_by: Opaque id of the user.
    """

    name: str
    image: str = "code"
    cpu: int = 1
    mem: int = 1024
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    auto_sleep: bool = True
    idle_s: int = IDLE_S
    ttl_s: int = 0
    snapshot: str = ""
    network: str = ""
    region: str = ""
    published: Mapping[str, str] = field(default_factory=dict[str, str])
    volumes: Sequence[VolumeMount] = ()
    created_by: str = ""

    def check(self, images: Collection[str]) -> None:
        """Refuse values that are not allowed.

        Raises:
            InvalidInput: The message names the field, its value and what is allowed.
        """
        check_name(self.name)
        if self.image not in images:
            raise InvalidInput(f"image must be {' or '.join(sorted(images))}, got {shown(self.image)}")
        _check_range("cpu", self.cpu, CPU_RANGE, "virtual CPUs")
        _check_range("mem", self.mem, MEM_RANGE, "MiB")
        check_labels(self.labels)
        _check_env(self.env)
        network_text(self.network)
        check_mounts(self.volumes)
        if len(self.region) > _REGION_LENGTH or not self.region.isprintable():
            raise InvalidInput(
                f"region must be at most {_REGION_LENGTH} printable characters, got {shown(self.region)}"
            )


def check_name(name: str) -> None:
    """Refuse a name that is not a DNS-1123 subdomain.

    Raises:
        InvalidInput: The message shows the name, shortened.
    """
    if len(name) > NAME_LENGTH:
        raise InvalidInput(f"name must be at most {NAME_LENGTH} characters, got {len(name)}")
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"name must be a DNS name such as my-box-1, got {shown(name)}",
            hint="Use lower-case letters, digits and '-', with a letter or digit at both ends",
        )


def network_text(network: str) -> str:
    """Return a policy as a record keeps it: its canonical text, empty for the operator's policy.

    Raises:
        InvalidInput: It is not a policy.
    """
    return "" if network in {"", DEFAULT_NETWORK} else Policy.parse(network).text()


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse labels that are too many, too long, or cannot be written in a selector.

    Raises:
        InvalidInput: The message names the label.
    """
    if len(labels) > _LABELS:
        raise InvalidInput(f"labels must be at most {_LABELS}, got {len(labels)}")
    for key, value in labels.items():
        if len(key) > _LABEL_LENGTH or not _LABEL_KEY.fullmatch(key):
            raise InvalidInput(
                f"labels must have keys of at most {_LABEL_LENGTH} lower-case letters, digits, '-' and '_', "
                f"got {shown(key)}"
            )
        if len(value) > _LABEL_LENGTH or not value.isprintable() or "," in value or "=" in value:
            raise InvalidInput(
                f"labels must have values of at most {_LABEL_LENGTH} printable characters without ',' and '=', "
                f"got {shown(value)} for {key}"
            )


def _check_range(field_name: str, value: int, allowed: tuple[int, int], unit: str) -> None:
    low, high = allowed
    if not low <= value <= high:
        raise InvalidInput(f"{field_name} must be {low} to {high} {unit}, got {shown(value)}")


def _check_env(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not _ENVNAME.fullmatch(name):
            raise InvalidInput(
                f"env must have variable names of letters, digits and '_', not a digit first, got {shown(name)}"
            )
        if "\0" in value:
            raise InvalidInput(f"env must have values without NUL characters, got one in {name}")
    size = sum(len(name) + len(value.encode()) for name, value in env.items())
    if size > _ENV_BYTES:
        raise InvalidInput(f"env must be at most {_ENV_BYTES} bytes, got {size}")
