"""A part of the test-suite on real KVM: the tests marked `kvm`, inside an emulated host that has it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import anyio
import pytest

from tests.kvm_host.__main__ import PROJECT, cache_directory, job_environment, pytest_job, short_set
from tests.kvm_host.emulator import host_emulator
from tests.kvm_host.host import NoHost, check, run
from tests.kvm_host.kernel import host_kernel
from vmm.images.catalogue import Catalogue

# Only a guard: a host that hangs has no heartbeat and is ended long before.
_LIMIT_S = 3600
# Now and then the emulated host itself stands still or its kernel dies, which says nothing of what is tested in it.
_TRIES = 3


@pytest.mark.vm
@pytest.mark.timeout(_TRIES * _LIMIT_S + 60)
@pytest.mark.skipif("CASEMATE_INSIDE_KVM_HOST" in os.environ, reason="this is the emulated host")
def test_the_short_set_passes_on_kvm(catalogue: Catalogue, tmp_path: Path) -> None:
    assert "minimal" in catalogue.names()  # built here: in there it would take half an hour
    try:
        check()
    except NoHost as reason:
        if os.environ.get("CI") or os.environ.get("CASEMATE_REQUIRE_KVM"):
            raise
        pytest.skip(f"no KVM host can be emulated: {reason}")
    emulator = anyio.run(host_emulator, cache_directory())
    kernel = anyio.run(host_kernel, cache_directory())
    done = None
    for _ in range(_TRIES):
        done = run(
            emulator,
            kernel,
            pytest_job(["-q", *short_set()]),
            directory=PROJECT,
            environment=job_environment(),
            results=tmp_path,
            limit_s=_LIMIT_S,
        )
        if done.status is not None:
            break
    assert done is not None
    assert done.status == 0, f"{done.output[-8000:]}\nThe host's console:\n{done.console}"
    passed = re.search(r"(\d+) passed", done.output)
    assert passed and int(passed[1]) >= 10, done.output
    assert (tmp_path / "junit.xml").exists()


@pytest.mark.vm
@pytest.mark.skipif("CASEMATE_INSIDE_KVM_HOST" in os.environ, reason="this is the emulated host")
def test_cloud_hypervisor_is_named() -> None:
    """Whether the short set includes the production driver, said where nobody overlooks it."""
    if not os.environ.get("CLOUD_HYPERVISOR_BIN"):
        if os.environ.get("CASEMATE_REQUIRE_KVM"):
            pytest.fail("CASEMATE_REQUIRE_KVM=1, and CLOUD_HYPERVISOR_BIN names no program")
        pytest.skip("CLOUD_HYPERVISOR_BIN names no program: cloud-hypervisor was not tested")
    assert Path(os.environ["CLOUD_HYPERVISOR_BIN"]).exists()
