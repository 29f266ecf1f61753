"""A part of the test-suite on real KVM: the tests marked `kvm`, inside an emulated host that has it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.kvm_host.host import NoHost
from tests.kvm_host.short_set import LIMIT_S, TRIES, ShortSet


@pytest.mark.timeout(TRIES * LIMIT_S + 60)
@pytest.mark.skipif("CASEMATE_INSIDE_KVM_HOST" in os.environ, reason="this is the emulated host")
def test_the_short_set_passes_on_kvm(short_set: ShortSet) -> None:
    try:
        done = short_set.done()
    except NoHost as reason:
        if os.environ.get("CI") or os.environ.get("CASEMATE_REQUIRE_KVM"):
            raise
        pytest.skip(f"no KVM host can be emulated: {reason}")
    assert done.status == 0, f"{done.output[-8000:]}\nThe host's console:\n{done.console}"
    passed = re.search(r"(\d+) passed", done.output)
    assert passed and int(passed[1]) >= 10, done.output
    assert (short_set.results / "junit.xml").exists()


@pytest.mark.skipif("CASEMATE_INSIDE_KVM_HOST" in os.environ, reason="this is the emulated host")
def test_cloud_hypervisor_is_named() -> None:
    """Whether the short set includes the production driver, said where nobody overlooks it."""
    if not os.environ.get("CLOUD_HYPERVISOR_BIN"):
        if os.environ.get("CASEMATE_REQUIRE_KVM"):
            pytest.fail("CASEMATE_REQUIRE_KVM=1, and CLOUD_HYPERVISOR_BIN names no program")
        pytest.skip("CLOUD_HYPERVISOR_BIN names no program: cloud-hypervisor was not tested")
    assert Path(os.environ["CLOUD_HYPERVISOR_BIN"]).exists()
