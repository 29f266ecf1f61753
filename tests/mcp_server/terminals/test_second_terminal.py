"""The emulator's screen beside that of a second one, tmux: for generated output and for what real programs write."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.terminals.emulator import Emulator
from tests.mcp_server.recorded import record
from tests.mcp_server.terminals.second_terminal import SecondTerminal, missing

COLS, ROWS = 20, 5
FULL = "x" * COLS
HEART = "\u2764\ufe0f"
# Where tmux, in Debian's version 3.3a, goes other ways than xterm, which programs expect, or than wcwidth: what is
# written, then the first rows here. What is generated below stays clear of these. Newer versions agree with some.
DIFFERENCES = {
    "a selector makes a letter wide": (f"{HEART}\x1b[S-", ["  -"]),
    "a skin tone has no room of its own": ("\U0001f44d\U0001f3fd\x1b[S-", ["  -"]),
    "two letters make one flag": ("\U0001f1e9\U0001f1ea\x1b[S-", ["  -"]),
    "marks without a letter are shown": ("\u0301a", ["\u0301a"]),
    "a bad byte is shown as such": (b"a\xffb", ["a\ufffdb"]),
    "half a wide letter is no letter": ("\u6f22b\x1b[2G\x1b[X", ["  b"]),
    "nor is it in the first column": ("\u6f22b\x1b[2G-", [" -b"]),
    "without wrapping, the last wide letter is shown, too": (f"\x1b[?7l{FULL}\u6f22\u5b57", ["x" * 18 + "\u5b57"]),
    "a full row's cursor stands on its last column": (f"{FULL}\b-", ["x" * 18 + "-x"]),
    "a full row is remembered with the cursor": (f"{FULL}\x1b7\x1b[H\x1b8-", [FULL, "-"]),
    "backspace stays in its row": (f"{FULL}-\b\b=", [FULL, "="]),
    "lines are inserted at the first column": ("ab\x1b[L-", ["-", "ab"]),
    "lines are deleted at the first column": ("ab\r\ncd\x1b[A\x1b[M-", ["-d"]),
    "outside the margins, no lines are inserted": ("ab\x1b[2;3r\x1b[L", ["ab"]),
    "margins of 0 are none": ("ab\x1b[0;0r-", ["-b"]),
    "wide letters repeat": ("\u6f22\x1b[2b", ["\u6f22" * 3]),
    "letters after a broken sequence are shown": ("a\x1b[2\u00e9", ["a\u00e9"]),
    "tabs forward": ("a\x1b[2I-", ["a" + " " * 15 + "-"]),
    "moves relative to the cursor": ("a\x1b[2a-\x1b[1e=", ["a  -", "    ="]),
    "new lines return the carriage when asked": ("a\x1b[20h\nb", ["a", "b"]),
    "mode 1048 keeps the cursor": ("ab\x1b[?1048h\x1b[3;3H\x1b[?1048l-", ["ab-"]),
    "selective erasure erases": ("abc\r\x1b[?K", [""]),
}


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondTerminal]:
    if lacking := missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI must compare with a second terminal, but {lacking}")
        pytest.skip(lacking)
    with SecondTerminal(tmp_path_factory.mktemp("tmux")) as second:
        yield second


def shown(output: bytes, cols: int = COLS, rows: int = ROWS) -> tuple[str, ...]:
    emulator = Emulator(cols, rows)
    emulator.feed(output)
    return emulator.text()


@pytest.mark.parametrize("name", DIFFERENCES)
def test_where_the_second_terminal_differs_the_first_follows_xterm_and_wcwidth(name: str) -> None:
    written, rows = DIFFERENCES[name]
    output = written if isinstance(written, bytes) else written.encode()
    assert list(shown(output)[: len(rows)]) == rows


_FEW = st.integers(1, 6)


def _with(pattern: str, *numbers: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
    return st.tuples(*numbers).map(lambda chosen: pattern.format(*chosen))


_NARROW = st.text("abcXYZ 0123", min_size=1, max_size=12)
_LETTERS = ["漢", "字", "한", "é", "é", "漢́", "z\u200b", "y\u200f", "\xad", "👩\u200d👩", "a", "b-"]
_WIDE = st.lists(st.sampled_from(_LETTERS), min_size=1, max_size=10).map("".join)
_GROUPS = st.sampled_from([*_LETTERS, HEART, "1\ufe0f\u20e3", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u2602"])
_MOVES = st.one_of(
    _with("\x1b[{};{}H", st.integers(0, 6), st.integers(0, 22)),
    *(_with(f"\x1b[{{}}{move}", _FEW) for move in "ABCEFGdST"),
    _with("\x1b[{}G\x1b[{}D", st.integers(1, 21), _FEW),
    _with("\x1b[{}G\b", st.integers(2, 20)),
    _with("\x1b[{}G\x1b7", _FEW),
    _with("\x1b[{}G\x1b[s", _FEW),
    _with("\x1b[{};{}r", _FEW, _FEW),
    _with("\x1b[r\x1b[{}d\x1b[{}L\r", _FEW, _FEW),
    _with("\x1b[r\x1b[{}d\x1b[{}M\r", _FEW, _FEW),
    st.sampled_from(["\r", "\n", "\r\n", "\t", "\x1bM", "\x1bD", "\x1bE", "\x1b[Z", "\x1b8", "\x1b[u", "\x1b[r"]),
    st.sampled_from(["\x1b[2J", "\x1b[J", "\x1b[1J", "\x1b[3J", "\x1bc", "\x1b#8", "\x1bH", "\x1b[3g", "\x1b[!p"]),
    st.sampled_from(["\x1b[?6h", "\x1b[?6l", "\x1b[?7l", "\x1b[?7h", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l"]),
    st.sampled_from(
        ["\x1b[1;31m", "\x1b[4:3m", "\x1b]0;t\x07", "\x1bP+q\x1b\\", "\x1b_G\x1b\\", "\x1b[>1u", "\x1b[2 q"]
    ),
)
_EDITS = st.one_of(
    *(_with(f"\x1b[{{}}{edit}", _FEW) for edit in "@PXb"),
    st.sampled_from(["\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[4h", "\x1b[4l"]),
)
_BOUNDED = settings(max_examples=60, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])


@_BOUNDED
@given(parts=st.lists(_NARROW | _MOVES | _EDITS, max_size=14))
def test_letters_of_one_column_are_written_moved_and_erased_alike(second: SecondTerminal, parts: list[str]) -> None:
    output = "".join(parts).encode()
    assert shown(output) == second.rows(output, COLS, ROWS)


@_BOUNDED
@given(parts=st.lists(_WIDE | _MOVES, max_size=14))
def test_wide_letters_and_marks_are_written_over_and_wrapped_alike(second: SecondTerminal, parts: list[str]) -> None:
    output = "".join(parts).encode()
    assert shown(output) == second.rows(output, COLS, ROWS)


@_BOUNDED
@given(rows=st.lists(st.lists(_GROUPS, max_size=9).map("".join), max_size=ROWS))
def test_rows_of_letters_that_belong_together_read_alike(second: SecondTerminal, rows: list[str]) -> None:
    output = "\r\n".join(f"|{row}" for row in rows).encode()
    assert shown(output, 80) == second.rows(output, 80, ROWS)


@dataclass(frozen=True, slots=True)
class Program:
    """A program as a person uses it: what is typed once which text is shown; the picture is taken at the last."""

    command: tuple[str, ...]
    keys: tuple[tuple[str, bytes], ...] = ()
    terminal: str = "xterm-256color"
    locale: str = "C.UTF-8"


_CURSES = r"""
import curses

def show(screen):
    curses.curs_set(0)
    screen.scrollok(True)
    screen.addstr(0, 0, "title")
    screen.hline(1, 0, curses.ACS_HLINE, 80)
    box = curses.newwin(8, 30, 3, 5)
    box.box()
    box.addstr(1, 1, "=" * 25)
    screen.refresh()
    box.refresh()
    for number in range(30):
        screen.move(12, 0)
        screen.insertln()
        screen.addstr(12, 0, f"row {number} " + "-" * 40)
        screen.refresh()
    for _ in range(5):
        screen.move(14, 0)
        screen.deleteln()
        screen.refresh()
    screen.insstr(12, 4, "XX")
    screen.move(13, 2)
    screen.delch()
    screen.refresh()
    box.erase()
    box.box()
    box.addstr(3, 3, "<ready>")
    box.refresh()
    screen.getch()

curses.wrapper(show)
"""
_RICH = r"""
import time
from rich.console import Console
from rich.panel import Panel
from rich.progress import track
from rich.table import Table

console = Console(force_terminal=True)
table = Table("\u540d\u524d", "emoji", title="\u6f22\u5b57")
table.add_row("\ud55c\uae00", "\U0001f389")
console.print(table, Panel("a panel"))
for _ in track(range(9), description="work"):
    time.sleep(0.01)
with console.status("turning"):
    time.sleep(0.3)
"""
_REPOSITORY = r"""
set -e
git init -q . && git commit -q --allow-empty -m '\346\274\242\345\255\227'
git checkout -q -b side && git commit -q --allow-empty -m side
git checkout -q - && git commit -q --allow-empty -m more && git merge -q --no-ff -m merge side
exec git --no-pager log --graph --color=always --format='%C(yellow)%h%Creset %s'
"""
_TYPED = b"echo hel\x1b[D\x1b[Dxx && ls -d /us\x05; ls -d /et\tx\x7f\r"
_SAVED = b'for i in 1 2 3; do printf "\\r%s" $i; done; tput sc; echo zz; tput rc; echo "E""ND"\r'
PROGRAMS = {
    "ls": Program(("ls", "--color=always", "-lC", "/etc")),
    "git log --graph": Program(("sh", "-c", _REPOSITORY)),
    "a traceback": Program((sys.executable, "-c", "def f(): raise ValueError('\u6f22')\nf()")),
    "tables and progress": Program((sys.executable, "-c", _RICH)),
    "help": Program((str(Path(sys.executable).with_name("casemate")), "--help")),
    "curses": Program((sys.executable, "-c", _CURSES), (("<ready>", b""),)),
    "curses of a linux console": Program((sys.executable, "-c", _CURSES), (("<ready>", b""),), "linux"),
    "curses without UTF-8": Program((sys.executable, "-c", _CURSES), (("<ready>", b""),), locale="C"),
    "bash": Program(("bash", "--norc", "-i"), (("$>", _TYPED), ("/etc/\n$>", _SAVED), ("END\n$>", b""))),
    "less": Program(("less", "rows"), (("row 0", b"  /row 45\r"), ("row 50", b"b"), ("row 25", b""))),
    "top": Program(("top", "-d", "0.3"), (("COMMAND", b"c"), ("%Cpu", b"x"), ("top -d", b""))),
    "vim": Program(
        ("vim", "-u", "NONE", "-N", "rows"),
        (
            ("row 0", b":set number\r"),
            ("  1 row 0", b"Gdd\x15\x15"),
            ("31 row 30", b'iHELLO \xe6\xbc\xa2\x1b:echo "DO" . "NE"\r'),
            ("DONE", b""),
        ),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_program_shows_reads_alike(second: SecondTerminal, name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    if shutil.which(program.command[0]) is None:
        pytest.skip(f"No {program.command[0]} on this machine")
    (tmp_path / "rows").write_text("".join(f"row {number} \u6f22\u5b57 e\u0301 tail\n" for number in range(60)))
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    variables = {"TERM": program.terminal, "LC_ALL": program.locale, "PS1": "$>", "PYTHONPATH": str(Path.cwd())} | names
    output = record(program.command, keys=program.keys, at=tmp_path, env=variables)
    rows = shown(output, 80, 24)
    assert any(rows)
    assert rows == second.rows(output, 80, 24)


def test_an_emoji_whose_width_an_editor_does_not_know_is_not_lost(tmp_path: Path) -> None:
    if shutil.which("vim") is None:
        pytest.skip("No vim on this machine")
    (tmp_path / "rows").write_text("".join(f"row {number} {HEART} tail\n" for number in range(9)))
    keys = (("row 8", b":set number\r"), ("  9 row 8", b"ggOnew\x1b:echo 1 + 41\r"), ("42", b""))
    rows = shown(record(("vim", "-u", "NONE", "-N", "rows"), keys=keys, at=tmp_path), 80, 24)
    assert [row.split()[1:] for row in rows[1:10]] == [["row", str(n), HEART, "tail"] for n in range(9)]
