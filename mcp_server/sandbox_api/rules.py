"""What holds for all sessions: their machines, their times and their limits, as the settings say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmm.guest.values import MIB

from .allowed_commands import ALL_COMMANDS, AllowedCommands

if TYPE_CHECKING:
    from mcp_server.settings import Settings

LARGEST_FILE = 8 * MIB
"""Bytes of a file that one call to a guest carries: the limit where the settings name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits of sessions.

    Attributes:
        image, cpu, mem: Their machines; `mem` in MiB.
        network: The policy of their network.
        ttl_s: Seconds without use before a session sleeps; 0 is never.
        unused_s: Seconds without use before it is deleted; 0 is never.
        volume_mib: Size of the volume that keeps a session's files when its sandbox is deleted unused; 0 if none does.
        max_s: Seconds after which it is deleted, in use or not; 0 is never.
        exec_s: The longest time limit of a command, in seconds.
        file_bytes: The largest file that is read or written.
        pids: Processes and threads of its user; 0 is no limit.
        commands: The only commands that may be run.
    """

    image: str = "code"
    cpu: int = 1
    mem: int = 512
    network: str = "none"
    ttl_s: int = 600
    unused_s: int = 900
    volume_mib: int = 0
    max_s: int = 0
    exec_s: int = 120
    file_bytes: int = MIB
    pids: int = 50
    commands: AllowedCommands = ALL_COMMANDS

    @classmethod
    def of(cls, settings: Settings, image: str) -> Rules:
        """Read the rules from the settings.

        Args:
            settings: The operator's settings.
            image: The image of the sessions' machines.
        """
        return cls(
            image=image,
            cpu=settings.default_cpu,
            mem=settings.sandbox_api_mem,
            network=settings.sandbox_api_network,
            ttl_s=settings.sandbox_api_ttl_seconds,
            unused_s=settings.sandbox_api_unused_seconds,
            volume_mib=settings.sandbox_api_volume_mib if settings.sandbox_api_persist else 0,
            max_s=settings.sandbox_api_max_seconds,
            exec_s=settings.sandbox_api_exec_seconds,
            file_bytes=settings.sandbox_api_file_bytes or LARGEST_FILE,
            pids=settings.sandbox_api_pids,
            commands=AllowedCommands(settings.sandbox_api_commands),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a session's commands and files are inside its machine, and whose they are.

    Attributes:
        workspace: The directory of its files.
        user: The uid of its commands; empty for the agent's own user, in tests whose guest is a process of the host.
    """

    workspace: str = "/workspace"
    user: str = "1000"


IN_GUEST = Home()
