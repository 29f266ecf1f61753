"""What is logged of problems that occur again and again."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from vmm.errors import Unavailable
from vmm.repeated_warnings import RepeatedWarnings

GONE = Unavailable("The store does not answer")


@pytest.mark.parametrize("error", [GONE, ExceptionGroup("of one", [ExceptionGroup("of one", [GONE])])])
def test_an_expected_error_is_logged_once_with_its_reason_and_no_traceback(error: Exception) -> None:
    warnings = RepeatedWarnings()
    with capture_logs() as logs:
        for _ in range(3):
            with warnings.about("deletions not finished"):
                raise error
        with warnings.about("deletions not finished"):
            pass
    assert [(entry["event"], entry.get("reason"), entry.get("exc_info")) for entry in logs] == [
        ("deletions not finished", "The store does not answer", None),
        ("deletions not finished: over", None, None),
    ]


def test_a_defect_is_logged_with_its_traceback() -> None:
    defect = KeyError("nobody thought of it")
    with capture_logs() as logs, RepeatedWarnings().about("deletions not finished"):
        raise ExceptionGroup("of two", [defect, GONE])
    (entry,) = logs
    assert entry["exc_info"].exceptions == (defect, GONE)
