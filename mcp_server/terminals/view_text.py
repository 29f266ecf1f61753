"""Formats a terminal's screen: one line about it, then its rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .screens import View


def view_text(view: View, *, awaited: str = "") -> str:
    """Format a view as text, without empty rows at the bottom.

    Args:
        view: The screen to show.
        awaited: The text that was waited for, if any.
    """
    info = view.info
    cols, rows = view.size
    row, column = view.cursor
    facts = [f"terminal_id {info.terminal_id}", f"{cols}x{rows}", f"cursor row {row} column {column}"]
    if view.title:
        facts.append(f"title {json.dumps(view.title, ensure_ascii=False)}")
    facts.append("running" if info.alive else f"ended with exit {info.exit_code}")
    if awaited:
        facts.append("pattern found" if view.found else "pattern not found yet")
    elif info.alive:
        facts.append("at rest" if view.settled else "still writing")
    if view.skipped:
        facts.append(f"{view.skipped} bytes of earlier output skipped")
    shown = list(view.rows)
    while shown and not shown[-1]:
        shown.pop()
    return "\n".join([f"[{' | '.join(facts)}]", *(shown or ["(the screen is empty)"])])
