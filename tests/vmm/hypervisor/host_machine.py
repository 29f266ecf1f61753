"""The program of a `HostDriver` machine: a process instead of a hypervisor, with the real agent as its guest.

    host_machine.py NONCE OPTIONS-OF-THE-AGENT...

The agent is a child of this process and always ends with it, because it has one end of a pipe whose other end only this
process has. Like a hypervisor, this process ends when its guest has ended.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
from pathlib import Path
from typing import Any

# The agent is imported from the project, whose directory comes after the standard library.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from vmm.agent import startup
from vmm.agent.arguments import Arguments
from vmm.agent.identity import IdentityHolder, SecretFile
from vmm.agent.nic_settings import Settings
from vmm.agent.uplink import Uplink


class RestoredIdentity(IdentityHolder):
    """The identity of an agent with saved memory, including its nonce.

    A process has no machine id, host name, entropy or network device of its own to change: it uses the host's random
    generator and network, and confirms the names and addresses that it gets.
    """

    given = ""

    def __init__(
        self, secret: bytes, file: SecretFile | None, random: int, *, privileged: bool, uplink: Uplink | None = None
    ) -> None:
        super().__init__(secret, file, random, privileged=privileged)
        self.nonce = self.given

    def take(self, arguments: Arguments) -> dict[str, Any]:
        """Accept a new identity."""
        names = {name: arguments.text(name) for name in ("machine_id", "hostname")}
        nic = Settings.of(arguments.pairs("nic"))
        return super().take(arguments) | names | {"entropy_mixed": True, "nic": None if nic is None else nic.texts()}


def main(nonce: str, options: list[str]) -> None:
    """Run the agent, and exit with its status."""
    watched, held = os.pipe()
    guest = os.fork()
    if guest == 0:
        os.close(held)
        _thread.start_new_thread(_leave_with_parent, (watched,))
        RestoredIdentity.given = nonce
        startup.IdentityHolder = RestoredIdentity
        startup.main(options)
    os.close(watched)
    _, status = os.waitpid(guest, 0)
    # An agent killed by a signal is like a crashed guest, which a hypervisor treats as a shutdown.
    sys.exit(max(0, os.waitstatus_to_exitcode(status)))


def _leave_with_parent(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
