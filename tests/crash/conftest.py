"""A host whose servers are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from bench.fleet import Host, this_host
from tests.crash.rig import Rig
from tests.crash.server import Nursery
from vmm.hypervisor.process import orphans
from vmm.images.catalogue import Catalogue


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery.open() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def host() -> Host:
    return anyio.run(this_host)


@pytest.fixture
def rig(
    nursery: Nursery, templates: Path, tmp_path: Path, catalogue: Catalogue, image_root: Path, host: Host
) -> Iterator[Rig]:
    assert "minimal" in catalogue.names()
    data = tmp_path / "data"
    data.mkdir()
    (data / "templates").symlink_to(templates)
    yield Rig(nursery, data, image_root, host)
    for processes in orphans(data).values():
        for process in processes:
            anyio.run(process.kill)
