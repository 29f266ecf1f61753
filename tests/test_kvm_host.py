"""A part of the test-suite on real KVM: the tests marked `kvm`, inside an emulated host that has it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from pytest import TerminalReporter

from tests.kvm_host.__main__ import PROJECT, SHORT, cache_directory, job_environment, pytest_job
from tests.kvm_host.host import Done, NoHost, check, run
from tests.kvm_host.kernel import HostKernel, host_kernel
from vmm.images.catalogue import Catalogue

_LIMIT_S = 700
# Now and then the emulated host itself stands still or its kernel dies, which says nothing of what is tested in it.
_TRIES = 3


@pytest.mark.vm
@pytest.mark.timeout((_TRIES + 1) * _LIMIT_S + 60)
@pytest.mark.skipif("CASEMATE_INSIDE_KVM_HOST" in os.environ, reason="this is the emulated host")
def test_the_short_set_passes_on_kvm(catalogue: Catalogue, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """What fails may fail because of the emulation, see ADR 11: it has one more chance, and that is said."""
    assert "minimal" in catalogue.names()  # built here: in there it would take half an hour
    try:
        check()
    except NoHost as reason:
        if os.environ.get("CI") or os.environ.get("CASEMATE_REQUIRE_KVM"):
            raise
        pytest.skip(f"no KVM host can be emulated: {reason}")
    kernel = anyio.run(host_kernel, cache_directory())
    done = _in_a_host_that_lives(kernel, SHORT, tmp_path)
    passed = re.search(r"(\d+) passed", done.output)
    assert passed and int(passed[1]) >= 10, _told(done)
    if failed := re.findall(r"^(?:FAILED|ERROR) (\S+)", done.output, re.MULTILINE):
        _say(pytestconfig, f"On KVM, tried again in a new host: {', '.join(failed)}\n{_told(done)}")
        done = _in_a_host_that_lives(kernel, failed, tmp_path)
    assert done.status == 0, _told(done)
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


def _in_a_host_that_lives(kernel: HostKernel, arguments: Sequence[str], results: Path) -> Done:
    told = ""
    for _ in range(_TRIES):
        done = run(
            kernel,
            pytest_job(["-q", *arguments]),
            directory=PROJECT,
            environment=job_environment(),
            results=results,
            limit_s=_LIMIT_S,
        )
        if done.status is not None:
            return done
        told = _told(done)
    pytest.fail(f"{_TRIES} emulated hosts died, the last one so: {told}")


def _told(done: Done) -> str:
    return f"{done.output[-8000:]}\nThe host's console:\n{done.console}"


def _say(config: pytest.Config, text: str) -> None:
    """Say it where it is seen though the test passes."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, TerminalReporter)
    reporter.write_line(f"\n{text}")
