"""What specs may say and cannot be run yet: refused before anything is started, or told to have no effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..specs.rules import Problem

if TYPE_CHECKING:
    from ..specs.sandbox import SandboxSection
    from ..specs.spec import Spec

_RUN = ("workflow", "sandbox")
_OWN_KERNEL = "every machine has Casemate's own kernel: remove it"


def unsupported(spec: Spec) -> Iterator[Problem]:
    """Yield every part of a valid spec that a run would need and does not have."""
    if spec.kind not in _RUN:
        yield Problem(("kind",), f"is {spec.kind}, which cannot be run yet: kinds that can are {', '.join(_RUN)}")
    yield from _sandbox(spec.sandbox)
    if spec.kind in _RUN and spec.llm is not None:
        yield Problem(("llm",), f"has no use in a {spec.kind}, which calls no model here: remove it", name=True)


def without_effect(spec: Spec) -> Iterator[Problem]:
    """Yield every part of a spec that changes nothing, here or in VoidBox."""
    if spec.observe is not None:
        yield Problem(("observe",), "has no effect: the server decides what it traces and where to", name=True)


def _sandbox(sandbox: SandboxSection) -> Iterator[Problem]:
    for field in ("kernel", "initramfs", "guest_image"):
        if getattr(sandbox, field):
            yield Problem(("sandbox", field), _OWN_KERNEL, name=True)
    if sandbox.mounts:
        yield Problem(("sandbox", "mounts"), "cannot be mounted yet: copy files with casemate cp", name=True)
    if sandbox.snapshot is not None and sandbox.image is not None:
        yield Problem(("sandbox", "image"), "is the snapshot's if there is one: remove it", name=True)
