"""What may run beside each other with `--dist loadfile`: different files, unless they share the host's cgroups.

Whole servers and the drivers' contract have cgroups where the host gives any, and look for what is left there: they run
one after the other then. The fleets of `tests/vmm` are in the tests' own process and have none.

The longest files come first, so that none of them is left when all others are done.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # pyright: ignore[reportMissingTypeStubs]

from vmm.hypervisor import delegation
from vmm.hypervisor.cgroup import Cgroups

_APART = tuple(
    f"tests/vmm/{place}"
    for place in ("test_", "disk/", "guest_network/", "images/", "lifecycle/", "machines/", "sandboxes/")
)

_SECONDS = {
    "tests/test_kvm_host.py": 300,
    "tests/crash/test_kills.py": 220,
    "tests/test_store_troubles.py": 120,
    "tests/mcp_server/test_end_to_end.py": 110,
    "tests/vmm/test_host_disk.py": 90,
    "tests/vmm/test_code_image.py": 80,
    "tests/test_server_on_mongodb.py": 70,
    "tests/vmm/test_registries.py": 70,
    "tests/vmm/hypervisor/test_nics.py": 70,
    "tests/vmm/test_unresponsive.py": 65,
    "tests/test_server_stop.py": 65,
    "tests/mcp_server/cli/test_end_to_end.py": 65,
    "tests/crash/test_volume_kills.py": 60,
    "tests/vmm/guest_network/test_servers.py": 60,
    "tests/test_server_process.py": 55,
    "tests/crash/test_kills_with_taps.py": 55,
    "tests/test_inspector.py": 50,
    "tests/mcp_server/rest/test_machine.py": 40,
    "tests/vmm/guest_network/test_floods.py": 40,
    "tests/mcp_server/rest/test_archive_files.py": 25,
}
"""What takes longer than a second for each test, about, on two processors."""


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
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # It would put those with the most tests first.
    return Beside(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, in each worker alike."""
    if hasattr(config, "workerinput"):
        tests = Counter(_file(item) for item in items)
        items.sort(key=lambda item: -_SECONDS.get(_file(item), tests[_file(item)]))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
