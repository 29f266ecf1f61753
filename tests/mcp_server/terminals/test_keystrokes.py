"""Names of keys."""

from __future__ import annotations

import pytest

from mcp_server.terminals.keystrokes import encode
from vmm.errors import InvalidInput


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("enter", b"\r"),
        ("Enter", b"\r"),
        ("ctrl-c", b"\x03"),
        ("Ctrl+D", b"\x04"),
        ("c-[", b"\x1b"),
        ("escape", b"\x1b"),
        ("up", b"\x1b[A"),
        ("page-down", b"\x1b[6~"),
        ("alt-X", b"\x1bX"),
        ("f12", b"\x1b[24~"),
        ("space", b" "),
    ],
)
def test_a_key_has_its_bytes(key: str, sent: bytes) -> None:
    assert encode([key]) == sent


def test_keys_are_pressed_one_after_the_other() -> None:
    assert encode(["up", "enter"]) == b"\x1b[A\r"


def test_arrows_follow_the_application_mode() -> None:
    assert encode(["up"], application_cursor=True) == b"\x1bOA"


@pytest.mark.parametrize("key", ["", "hyper-x", "ab", "x" * 1000])
def test_an_unknown_key_is_refused_with_the_known_ones(key: str) -> None:
    with pytest.raises(InvalidInput, match="ctrl-a to ctrl-z") as caught:
        encode([key])
    assert len(str(caught.value)) < 400


def test_too_many_keys_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 100 entries, got 101"):
        encode(["up"] * 101)
