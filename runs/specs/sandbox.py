"""`sandbox`: the machine of a spec."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from .model import GuestPath, SpecModel, Text

DEFAULT_MEMORY_MB = 1024

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _real(value: str) -> str:
    if value == "mock":
        raise ValueError("is mock, but there is no mock: its results would prove nothing; write auto or local")
    return value


def _variables(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"has {name[:80]!r}, which is not a name of a variable: use letters, digits and _")
    return value


Environment = Annotated[dict[str, str], AfterValidator(_variables)]
"""Variables by name; an empty value stands for that of the host."""

Memory = Annotated[int, Field(ge=1, le=1 << 24)]
Processors = Annotated[int, Field(ge=1, le=1024)]


class Mount(SpecModel):
    """A directory of the host that the guest sees."""

    host: Text
    guest: GuestPath
    mode: Literal["ro", "rw"] = "ro"


class SandboxSection(SpecModel):
    """The machine.

    Attributes:
        mode: `auto` and `local` are the same here: a real machine.
        kernel: Path of a kernel.
        initramfs: Path of an initramfs.
        memory_mb: Memory in MiB.
        vcpus: Virtual CPUs.
        network: Whether it reaches the internet.
        env: Variables of all programs.
        mounts: Directories of the host.
        image: The image of its files.
        guest_image: An image with kernel and initramfs; empty for none.
        snapshot: A snapshot to start from.
    """

    mode: Annotated[Literal["auto", "local", "mock"], AfterValidator(_real)] = "auto"
    kernel: str | None = None
    initramfs: str | None = None
    memory_mb: Memory = DEFAULT_MEMORY_MB
    vcpus: Processors = 1
    network: bool = False
    env: Environment = Field(default_factory=dict[str, str])
    mounts: list[Mount] = Field(default_factory=list[Mount])
    image: str | None = None
    guest_image: str | None = None
    snapshot: str | None = None


class BoxSandbox(SpecModel):
    """What a pipeline's box has of its own; what is left out is the spec's."""

    memory_mb: Memory | None = None
    vcpus: Processors | None = None
    network: bool | None = None
    env: Environment = Field(default_factory=dict[str, str])
    mounts: list[Mount] = Field(default_factory=list[Mount])
    snapshot: str | None = None
