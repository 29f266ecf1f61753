"""Measures the branches that the tests' own processes take, pytest-xdist's workers among them: `-p tests.covered`.

Each process writes a file, and `coverage combine` adds them up. The programs that tests start are not measured: tracing
would double the time of each, and what they run is mostly called from tests directly, too.
"""

from __future__ import annotations

import coverage
import pytest

_coverage = coverage.Coverage()
_coverage.start()  # now, so that the modules that plugins and conftests import count


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Write what was measured."""
    _coverage.stop()
    _coverage.save()
