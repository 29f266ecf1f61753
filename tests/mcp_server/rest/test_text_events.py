"""When unfinished lines are sent."""

from __future__ import annotations

import math

from mcp_server.rest.lines import event
from mcp_server.rest.text_events import TextEvents


def test_whole_lines_are_sent_at_once() -> None:
    text = TextEvents()
    assert text.feed("stdout", b"one\ntwo\n", 5.0) == event("stdout", "one\n") + event("stdout", "two\n")
    assert math.isinf(text.due)


def test_a_part_of_a_line_waits_since_it_came_whatever_follows_it() -> None:
    text = TextEvents()
    assert text.feed("stdout", b"The", 5.0) == ""
    due = text.due
    assert 5.0 < due < 5.03
    assert text.feed("stdout", b" quick", 5.01) == text.flush(5.01) == ""
    assert text.due == due
    assert text.flush(due) == event("stdout", "The quic")
    assert math.isinf(text.due)
    assert text.feed("stdout", b" fox\n", 6.0) == event("stdout", "k fox\n")


def test_a_new_part_waits_anew_once_the_line_before_it_is_sent() -> None:
    text = TextEvents()
    text.feed("stdout", b"one", 5.0)
    assert text.feed("stdout", b"\ntwo", 5.01) == event("stdout", "one\n")
    assert text.due > 5.02


def test_each_stream_has_its_own_wait() -> None:
    text = TextEvents()
    text.feed("stderr", b"oops", 5.0)
    due = text.due
    text.feed("stdout", b"one\ntwo", 5.01)
    assert text.due == due
    assert text.flush(due) == event("stderr", "oop")
    assert text.end() == event("stdout", "two") + event("stderr", "s")


def test_prompts_are_sent_whole_to_who_answers_them() -> None:
    text = TextEvents(prompts=True)
    text.feed("stdout", b"sure? ", 5.0)
    assert text.flush(text.due) == event("stdout", "sure")
    assert text.due > 5.1
    assert text.flush(text.due) == event("stdout", "?")
    assert math.isinf(text.due)
    assert text.feed("stdout", b"yes\n", 9.0) == event("stdout", " yes\n")
    assert math.isinf(text.due)


def test_the_end_of_one_stream_leaves_the_other() -> None:
    text = TextEvents()
    text.feed("stdout", b"out", 5.0)
    text.feed("stderr", b"err", 5.0)
    assert text.end("stdout") == event("stdout", "out")
    assert text.end() == event("stderr", "err")
