"""What may run beside each other with `--dist loadfile`: different files, unless they share the host's cgroups.

Whole servers and the drivers' contract have cgroups where the host gives any, and look for what is left there: they run
one after the other then. The fleets of `tests/vmm` are in the tests' own process and have none.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # pyright: ignore[reportMissingTypeStubs]

from vmm.hypervisor import delegation
from vmm.hypervisor.cgroup import Cgroups

_APART = tuple(
    f"tests/vmm/{place}"
    for place in ("test_", "disk/", "guest_network/", "images/", "lifecycle/", "machines/", "sandboxes/")
)


class Beside(LoadFileScheduling):
    """Gives a file to one worker; files that share cgroups all to the same one."""

    _shared = isinstance(delegation.find(), Cgroups)

    def _split_scope(self, nodeid: str) -> str:
        if self._shared and not nodeid.startswith(_APART):
            return "the host's"
        return super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Beside | None:
    """The way of sharing that the command line asks for."""
    return Beside(config, log) if config.getoption("dist") == "loadfile" else None
