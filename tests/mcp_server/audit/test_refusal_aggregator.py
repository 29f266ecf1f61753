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
    floods = RefusalAggregator()
    assert floods.add(RECORD, 0) == RECORD
    for now in (1, 5000, WINDOW_MS - 1):
        assert floods.add(replace(RECORD, id=f"{now:024}"), now) is None
    assert floods.due(WINDOW_MS - 1) == []
    assert floods.due(WINDOW_MS) == [replace(RECORD, count=4)]
    assert floods.due(WINDOW_MS) == []


def test_one_that_stays_alone_is_not_written_again() -> None:
    floods = RefusalAggregator()
    floods.add(RECORD, 0)
    assert floods.due(WINDOW_MS) == []
    assert floods.add(RECORD, WINDOW_MS) == RECORD


def test_other_addresses_reasons_and_actions_are_told_apart() -> None:
    floods = RefusalAggregator()
    others = [
        RECORD,
        replace(RECORD, address="192.0.2.2"),
        replace(RECORD, reason="no key"),
        replace(RECORD, action="mcp"),
        replace(RECORD, org_id="a" * 24),
    ]
    assert [floods.add(record, 0) for record in others] == others


def test_too_many_addresses_are_summed_up_as_many() -> None:
    floods = RefusalAggregator(most=10)
    written = [floods.add(replace(RECORD, address=f"192.0.2.{number}", reason=f"{number}"), 0) for number in range(100)]
    assert [record.address for record in written if record] == [f"192.0.2.{number}" for number in range(10)] + [MANY]
    (rest,) = floods.due(WINDOW_MS)
    assert (rest.address, rest.reason, rest.count) == (MANY, MANY, 90)


def test_at_the_end_all_are_closed() -> None:
    floods = RefusalAggregator()
    floods.add(RECORD, 0)
    floods.add(RECORD, 1)
    assert floods.close() == [replace(RECORD, count=2)]
    assert floods.close() == []
