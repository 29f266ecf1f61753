"""How a command's result reads."""

from __future__ import annotations

from dataclasses import replace

from mcp_server.tools.output import DEFAULT_BUDGET
from mcp_server.tools.report import outcome_text, output_text, process_line
from vmm.guest.values import Captured, Outcome, OutputSlice, ProcessInfo, ProcessOutput


def captured(data: bytes) -> Captured:
    return Captured(head=data, total=len(data))


def outcome(
    stdout: bytes = b"",
    stderr: bytes = b"",
    *,
    exit_code: int | None = 0,
    signal: int | None = None,
    timed_out: bool = False,
) -> Outcome:
    return Outcome(
        pid=41,
        running=exit_code is None,
        exit_code=exit_code,
        signal=signal,
        timed_out=timed_out,
        stdout=captured(stdout),
        stderr=captured(stderr),
        duration_ms=230,
    )


def text(value: Outcome) -> str:
    return outcome_text(value, "web", budget=DEFAULT_BUDGET, timeout_s=5)


def info(*, running: bool, stdout_total: int = 0) -> ProcessInfo:
    return ProcessInfo(
        pid=41,
        command="make\x1b[31m all",
        running=running,
        exit_code=None if running else 2,
        signal=None,
        timed_out=False,
        started_ms=0,
        duration_ms=12_345,
        stdout_total=stdout_total,
        stderr_total=0,
    )


def part(data: bytes, offset: int = 0) -> OutputSlice:
    return OutputSlice(offset=offset, data=data, next_offset=offset + len(data))


def test_what_is_not_kept_is_told_where_it_is_missing() -> None:
    read = ProcessOutput(info=info(running=False, stdout_total=90), stdout=part(b"x" * 10, offset=80), stderr=part(b""))
    assert output_text(read, "web", stdout_from=20).startswith("[60 bytes of stdout are not kept]\nxxxxxxxxxx\n[exit 2")
    assert output_text(read, "web", stdout_from=80).startswith("xxxxxxxxxx\n[exit 2")
    end = ProcessOutput(info=info(running=False, stdout_total=90), stdout=part(b"", offset=90), stderr=part(b""))
    assert output_text(end, "web", stdout_from=900).startswith("[exit 2")


def test_the_last_line_says_how_it_ended() -> None:
    assert text(outcome(b"hello\n")) == "hello\n[exit 0 | 230 ms]"


def test_a_command_without_output_still_has_its_exit_code() -> None:
    assert text(outcome(exit_code=3)) == "[exit 3 | 230 ms]"


def test_standard_error_stands_apart() -> None:
    assert text(outcome(b"out", b"err", exit_code=1)) == "out\n[stderr]\nerr\n[exit 1 | 230 ms]"


def test_a_signal_is_named() -> None:
    assert text(outcome(exit_code=139, signal=11)) == "[killed by SIGSEGV | exit 139 | 230 ms]"


def test_a_timeout_is_told_with_what_was_written_before() -> None:
    told = text(outcome(b"part", exit_code=137, signal=9, timed_out=True))
    assert told == "part\n[killed by its timeout of 5 s | exit 137 | 230 ms]"


def test_a_running_command_says_how_to_go_on_and_how_to_stop_it() -> None:
    told = text(outcome(b"so far\n", exit_code=None))
    assert told.startswith("so far\n[still running after 230 ms as pid 41. ")
    assert 'read_process_output(id="web", pid=41, stdout_offset=7, stderr_offset=0, wait=30)' in told
    assert 'kill_process(id="web", pid=41)' in told


def test_bytes_that_are_no_text_are_admitted() -> None:
    assert "[some bytes are not UTF-8" in text(outcome(b"\xff\n"))


def test_long_output_stays_in_its_budget_and_says_how_to_read_the_rest() -> None:
    told = text(outcome(b"line\n" * 50_000, b"err\n" * 50_000, exit_code=1))
    assert len(told) <= DEFAULT_BUDGET
    assert 'Read on: read_process_output(id="web", pid=41, stdout_offset=' in told
    assert 'Read on: read_process_output(id="web", pid=41, stderr_offset=' in told
    assert told.endswith("[exit 1 | 230 ms]")


def test_reading_on_leaves_half_a_character_for_the_next_time() -> None:
    told = output_text(
        ProcessOutput(info=info(running=True, stdout_total=4), stdout=part(b"ab\xe2\x82"), stderr=part(b"")), "web"
    )
    assert told.startswith("ab\n")
    assert "stdout_offset=2" in told


def test_reading_a_part_says_how_much_is_left() -> None:
    told = output_text(
        ProcessOutput(info=info(running=False, stdout_total=100), stdout=part(b"x" * 10, 20), stderr=part(b"")), "web"
    )
    assert "[exit 2, 70 more bytes: read_process_output(" in told
    assert "stdout_offset=30" in told


def test_reading_to_the_end_says_so() -> None:
    told = output_text(ProcessOutput(info=info(running=False), stdout=part(b""), stderr=part(b"")), "web")
    assert told == "[exit 2 | 12.3 s | all output read]"


def test_a_process_is_one_line_without_control_characters() -> None:
    line = process_line(info(running=True))
    assert line == "pid 41 | running | 12.3 s | stdout 0 B, stderr 0 B | make all"


def test_refused_connections_come_last_and_stay_within_the_budget() -> None:
    refused = "\n".join(f"[network: refused n{number}.example.com:443]" for number in range(5))
    assert text(replace(outcome(b"hello\n"), network=refused)) == f"hello\n[exit 0 | 230 ms]\n{refused}"
    long = text(replace(outcome(b"x" * 79 + b"\n"), network=refused, stdout=captured((b"x" * 79 + b"\n") * 1000)))
    assert len(long) <= DEFAULT_BUDGET
    assert long.endswith(refused)
    read = ProcessOutput(info=info(running=True), stdout=part(b""), stderr=part(b""), network=refused)
    assert output_text(read, "web").endswith(f"wait=30)]\n{refused}")
