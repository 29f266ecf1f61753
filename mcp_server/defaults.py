"""The operator's defaults of new sandboxes, the same for MCP and REST."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.sandboxes.spec import IDLE_S

CREATE_WAIT_S = 50
"""Many proxies give up after 60 s without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Of a sandbox whose creator says nothing else.

    Attributes:
        image: Its image.
        cpu, mem: Virtual CPUs, and memory in MiB.
        idle_s: Seconds without use until it may fall asleep; 0 is never.
        create_wait_s: Seconds that a create over REST waits until it runs.
    """

    image: str = "code"
    cpu: int = 1
    mem: int = 1024
    idle_s: int = IDLE_S
    create_wait_s: int = CREATE_WAIT_S
