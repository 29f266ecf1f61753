"""Refusals alike become one record with their number."""

from __future__ import annotations

from dataclasses import replace

from mcp_server.audit.record import AuditRecord
from mcp_server.audit.refusal_aggregator import MANY, WINDOW_MS, RefusalAggregator

RECORD = AuditRecord(
    id="0" * 24,
    org_id="",
    at_ms=0,
    user_id="",
    key_id="",
    method="",
    address="192.0.2.1",
    surface="rest",
    action="unknown",
    sandbox="",
    decision="refused",
    status=401,
    reason="invalid key",
    duration_ms=1,
)


def test_the_first_one_is_written_at_once_and_once_more_with_the_number_of_all() -> None:
    refusals = RefusalAggregator()
    assert refusals.add(RECORD, 0) == RECORD
    for now in (1, 5000, WINDOW_MS - 1):
        assert refusals.add(replace(RECORD, id=f"{now:024}"), now) is None
    assert refusals.due(WINDOW_MS - 1) == []
    assert refusals.due(WINDOW_MS) == [replace(RECORD, count=4)]
    assert refusals.due(WINDOW_MS) == []


def test_one_that_stays_alone_is_not_written_again() -> None:
    refusals = RefusalAggregator()
    refusals.add(RECORD, 0)
    assert refusals.due(WINDOW_MS) == []
    assert refusals.add(RECORD, WINDOW_MS) == RECORD


def test_other_addresses_reasons_and_actions_are_told_apart() -> None:
    refusals = RefusalAggregator()
    others = [
        RECORD,
        replace(RECORD, address="192.0.2.2"),
        replace(RECORD, reason="no key"),
        replace(RECORD, action="mcp"),
        replace(RECORD, org_id="a" * 24),
    ]
    assert [refusals.add(record, 0) for record in others] == others


def test_too_many_addresses_are_summed_up_as_many() -> None:
    refusals = RefusalAggregator(most=10)
    written = [
        refusals.add(replace(RECORD, address=f"192.0.2.{number}", reason=f"{number}"), 0) for number in range(100)
    ]
    assert [record.address for record in written if record] == [f"192.0.2.{number}" for number in range(10)] + [MANY]
    (rest,) = refusals.due(WINDOW_MS)
    assert (rest.address, rest.reason, rest.count) == (MANY, MANY, 90)


def test_at_the_end_all_are_closed() -> None:
    refusals = RefusalAggregator()
    refusals.add(RECORD, 0)
    refusals.add(RECORD, 1)
    assert refusals.close() == [replace(RECORD, count=2)]
    assert refusals.close() == []
