"""Calls get into the store: what is recorded of them, when, and what happens while the store is away."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import anyio
import pytest
import structlog
from pydantic import TypeAdapter, ValidationError

from auth.principal import Principal
from mcp_server.audit.entry import AuditedRequest, annotate_call, use_request
from mcp_server.audit.log import AuditLog
from mcp_server.audit.record import BY_TIME, AuditRecord
from mcp_server.audit.writer import Writer
from mcp_server.observability.metrics import Meters
from storage.collection import Collection
from storage.errors import StoreUnavailable
from tests.auth.clocks import Clocks
from tests.mcp_server.audit.shaky import Shaky
from tests.mcp_server.audit.test_refusal_aggregator import RECORD
from tests.waiting import PATIENCE_S, until
from vmm.errors import CasemateError, GuestError, InvalidInput, LinkError, NotFound

pytestmark = pytest.mark.anyio

ORG, USER, KEY_ID = "a" * 24, "b" * 24, "c" * 24
DAY_MS = 86_400_000


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def shaky(records: Collection) -> Shaky:
    return Shaky(records)


@pytest.fixture
def audit_log(shaky: Shaky, meters: Meters, clocks: Clocks) -> AuditLog:
    return AuditLog(shaky, meters=meters, days=30, clock=clocks.epoch)


@pytest.fixture
def audited() -> AuditedRequest:
    who = Principal(org_id=ORG, user_id=USER, key_id=KEY_ID)
    return AuditedRequest(address="192.0.2.7", request_id="req-1", state={"principal": who})


@asynccontextmanager
async def running(audit_log: AuditLog) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit_log.run)
        yield
        tasks.cancel_scope.cancel()


async def stored(records: Collection) -> list[AuditRecord]:
    """All records, oldest first."""
    return [AuditRecord.of(document) for document in await records.find(BY_TIME, limit=10_000)]


async def stored_count(records: Collection, count: int) -> list[AuditRecord]:
    """All records as soon as there are so many."""
    with anyio.fail_after(PATIENCE_S):
        while len(found := await stored(records)) < count:
            await anyio.sleep(0.02)
    return found


async def test_a_call_is_recorded_with_everything_that_is_known_of_it(
    audit_log: AuditLog, records: Collection, audited: AuditedRequest, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.audit.log.time", SimpleNamespace(perf_counter=count(7.0, 0.25).__next__))
    async with running(audit_log):
        with (
            use_request(audited),
            audit_log.call(
                surface="mcp", action="execute_command", arguments={"id": "box", "command": "ls"}, sandbox="box"
            ),
        ):
            annotate_call(exit_code=3, sandbox="d" * 24)
        (record,) = await stored_count(records, 1)
    assert record.duration_ms == 250
    assert record == AuditRecord(
        id=record.id,
        org_id=ORG,
        at_ms=clocks.ms,
        user_id=USER,
        key_id=KEY_ID,
        method="key",
        address="192.0.2.7",
        surface="mcp",
        action="execute_command",
        sandbox="d" * 24,
        decision="allowed",
        status=200,
        reason="",
        duration_ms=record.duration_ms,
        exit_code=3,
        arguments='{"id":"box","command":"ls"}',
        request_id="req-1",
    )
    assert audited.calls == 1


@pytest.mark.parametrize(
    ("error", "decision", "reason"),
    [
        (InvalidInput("wait: -1 s is out of range"), "refused", "invalid_input: wait: -1 s is out of range"),
        (NotFound("There is no sandbox 'x'"), "refused", "not_found: There is no sandbox 'x'"),
        (LinkError("broke"), "failed", "link_error: broke"),
        (GuestError("no"), "failed", "guest_error: no"),
        (CasemateError("odd"), "failed", "internal: odd"),
        (StoreUnavailable("away"), "failed", "store: away"),
        (RuntimeError("password is hunter2"), "failed", "RuntimeError"),
        (ValueError("password is hunter2"), "failed", "ValueError"),
        (UnicodeDecodeError("utf-8", b"hunter2", 0, 1, "odd"), "failed", "UnicodeDecodeError"),
        (NotFound("There is no sandbox 'cm_abcdefghijkl'"), "refused", "not_found: There is no sandbox '[hidden]'"),
    ],
)
async def test_an_error_decides_between_refused_and_failed(
    audit_log: AuditLog, records: Collection, error: Exception, decision: str, reason: str
) -> None:
    with pytest.raises(type(error)), audit_log.call(surface="mcp", action="a", arguments={}):
        raise error
    async with running(audit_log):
        (record,) = await stored_count(records, 1)
    assert (record.decision, record.reason) == (decision, reason)


async def test_refused_arguments_are_named_but_not_repeated(audit_log: AuditLog, records: Collection) -> None:
    with audit_log.call(surface="mcp", action="a", arguments={}) as entry:
        try:
            TypeAdapter(dict[str, int]).validate_python({"port": "hunter2"})
        except ValidationError as error:
            entry.refuse_arguments(error)
    async with running(audit_log):
        (record,) = await stored_count(records, 1)
    assert record.decision == "refused"
    assert record.reason == "invalid_input: port"


async def test_a_value_that_the_code_itself_refuses_is_a_fault_of_the_server(
    audit_log: AuditLog, records: Collection
) -> None:
    with pytest.raises(ValidationError), audit_log.call(surface="mcp", action="a", arguments={}):
        TypeAdapter(dict[str, int]).validate_python({"port": "hunter2"})
    async with running(audit_log):
        (record,) = await stored_count(records, 1)
    assert (record.decision, record.reason) == ("failed", "ValidationError")


async def test_a_cancelled_call_is_recorded_as_failed(audit_log: AuditLog, records: Collection) -> None:
    with anyio.move_on_after(0.01), audit_log.call(surface="mcp", action="a", arguments={}):
        await anyio.sleep_forever()
    async with running(audit_log):
        (record,) = await stored_count(records, 1)
    assert (record.decision, record.reason) == ("failed", "cancelled")


async def test_two_calls_at_once_do_not_mix_their_notes(audit_log: AuditLog, records: Collection) -> None:
    async def call(number: int) -> None:
        with audit_log.call(surface="mcp", action=f"a{number}", arguments={}):
            await anyio.sleep(0.01)
            async with anyio.create_task_group() as inner:
                inner.start_soon(note, number)

    async def note(number: int) -> None:
        annotate_call(exit_code=number)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(call, number)
    annotate_call(exit_code=99)
    async with running(audit_log):
        found = await stored_count(records, 20)
    assert {(record.action, record.exit_code) for record in found} == {(f"a{number}", number) for number in range(20)}


async def test_every_call_is_logged_at_once_without_its_arguments(audit_log: AuditLog, audited: AuditedRequest) -> None:
    with (
        structlog.testing.capture_logs() as logged,
        use_request(audited),
        audit_log.call(surface="mcp", action="read_file", arguments={"path": "/private"}),
    ):
        pass
    (line,) = logged
    assert (line["event"], line["action"], line["org"], line["user"]) == ("call", "read_file", ORG, USER)
    assert "/private" not in str(line)


async def test_a_thousand_refusals_of_nobody_are_one_record(
    audit_log: AuditLog, records: Collection, clocks: Clocks
) -> None:
    def refusal() -> None:
        with (
            use_request(AuditedRequest(address="192.0.2.9")),
            audit_log.call(surface="rest", action="unknown", arguments={}) as entry,
        ):
            entry.status = 401
            entry.refuse("invalid or inactive API key")

    async with running(audit_log):
        for _ in range(1000):
            refusal()
        (first,) = await stored_count(records, 1)
        assert first.count == 1
        clocks.advance(10)
        with anyio.fail_after(PATIENCE_S):
            while (await stored(records))[0].count == 1:
                await anyio.sleep(0.05)
        (summed,) = await stored(records)
    assert summed == replace(first, count=1000)


async def test_refusals_of_somebody_known_are_recorded_each(
    audit_log: AuditLog, records: Collection, audited: AuditedRequest
) -> None:
    async with running(audit_log):
        for _ in range(3):
            with use_request(audited), audit_log.call(surface="mcp", action="get_sandbox", arguments={}) as entry:
                entry.refuse("not_found: There is no sandbox 'x'")
        assert len(await stored_count(records, 3)) == 3


async def test_what_waits_is_written_at_the_stop(audit_log: AuditLog, records: Collection) -> None:
    async with running(audit_log):
        await anyio.wait_all_tasks_blocked()
        for number in range(300):
            with audit_log.call(surface="mcp", action=f"a{number}", arguments={}):
                pass
        with use_request(AuditedRequest(address="x")):
            for _ in range(5):
                with audit_log.call(surface="rest", action="unknown", arguments={}) as entry:
                    entry.refuse("no")
    found = await stored(records)
    assert len(found) == 301
    assert sum(record.count for record in found) == 305


async def test_a_store_that_hangs_does_not_hold_up_the_stop(
    audit_log: AuditLog, shaky: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.audit.log._FLUSH_S", 0.2)
    shaky.hangs = True
    with anyio.fail_after(PATIENCE_S):
        async with running(audit_log):
            with audit_log.call(surface="mcp", action="a", arguments={}):
                pass
            await until(lambda: shaky.batches)


async def test_while_the_store_is_away_records_wait_and_then_all_are_written_in_order(
    audit_log: AuditLog, records: Collection, shaky: Shaky, meters: Meters
) -> None:
    shaky.down = True
    async with running(audit_log):
        for number in range(100):
            with audit_log.call(surface="mcp", action=f"a{number}", arguments={}):
                pass
        await until(lambda: shaky.batches)
        assert await stored(records) == []
        assert b"casemate_audit_queue 100.0" in meters.text()
        shaky.down = False
        found = await stored_count(records, 100)
    assert [record.action for record in sorted(found, key=lambda record: record.id)] == [f"a{n}" for n in range(100)]
    assert b"casemate_audit_queue 0.0" in meters.text()
    assert b"casemate_audit_written_total 100.0" in meters.text()


async def test_a_write_whose_answer_was_lost_is_not_written_twice(
    audit_log: AuditLog, records: Collection, shaky: Shaky
) -> None:
    shaky.mute = True
    async with running(audit_log):
        with audit_log.call(surface="mcp", action="a", arguments={}):
            pass
        await until(lambda: shaky.lost > 0)
        shaky.mute = False
        await until(lambda: shaky.arrived > 0)
    assert len(await stored(records)) == 1


async def test_of_too_many_that_wait_the_oldest_are_dropped_and_counted(
    shaky: Shaky, records: Collection, meters: Meters
) -> None:
    shaky.down = True
    writer = Writer(shaky, meters, most=10)
    for number in range(25):
        writer.add(replace(RECORD, id=f"{number:024}"))
    assert not await writer.write_batch()
    assert len(writer) == 10
    assert b"casemate_audit_dropped_total 15.0" in meters.text()
    shaky.down = False
    assert await writer.write_batch()
    assert [record.id for record in await stored(records)] == [f"{number:024}" for number in range(15, 25)]


async def test_a_record_that_cannot_be_stored_does_not_stop_the_others(
    shaky: Shaky, records: Collection, meters: Meters
) -> None:
    writer = Writer(shaky, meters)
    writer.add(replace(RECORD, id="1" * 24, sandbox="\ud800"))
    writer.add(RECORD)
    assert await writer.write_batch()
    assert len(await stored(records)) == 1
    assert b"casemate_audit_dropped_total 1.0" in meters.text()


async def test_names_that_no_store_takes_are_recorded_all_the_same(audit_log: AuditLog, records: Collection) -> None:
    with audit_log.call(
        surface="mcp", action="a", arguments={"id": "\0\ud800"}, sandbox="\0\ud800" + "x" * 200
    ) as entry:
        entry.refuse("\ud800\0")
    async with running(audit_log):
        (record,) = await stored_count(records, 1)
    assert record.sandbox == "\ufffd?" + "x" * 78


async def test_records_older_than_they_are_kept_are_purged(
    audit_log: AuditLog, records: Collection, clocks: Clocks
) -> None:
    for age_days in (31, 30, 29):
        at_ms = clocks.ms - age_days * DAY_MS - (age_days == 30)
        await records.insert(replace(RECORD, id=f"{age_days:024}", at_ms=at_ms).document())
    async with anyio.create_task_group() as tasks:
        for number in range(2100):
            tasks.start_soon(records.insert, replace(RECORD, id=f"f{number:023}", at_ms=number).document())
    assert await audit_log.purge() == 2102
    assert [record.id for record in await stored(records)] == [f"{29:024}"]


async def test_a_run_purges_by_itself(audit_log: AuditLog, records: Collection) -> None:
    await records.insert(replace(RECORD, at_ms=0).document())
    async with running(audit_log):
        with anyio.fail_after(PATIENCE_S):
            while await stored(records):
                await anyio.sleep(0.02)


def test_a_record_survives_its_document() -> None:
    assert AuditRecord.of(json.loads(json.dumps(RECORD.document()))) == RECORD
