"""A command's two streams as events of text, and when an unfinished line is sent as far as it goes."""

from __future__ import annotations

import math

from .lines import Lines, event

_PAUSE_S = 0.02
"""How long a part of a line waits for the rest of it."""
_PROMPT_S = 0.5
"""How long what may be a prompt waits, whose last word must be shown too."""


class TextEvents:
    """Turns bytes of stdout and stderr into events.

    Args:
        prompts: Whether the reader answers prompts. Then what ends in one is sent after a while as it stands, although
            a blank that follows is then lost for one of VoidRun's clients; without that, nothing depends on time.
    """

    def __init__(self, *, prompts: bool = False) -> None:
        self._prompts = prompts
        self._lines = {"stdout": Lines(), "stderr": Lines()}
        self._parts_due = dict.fromkeys(self._lines, math.inf)
        self._prompts_due = dict.fromkeys(self._lines, math.inf)

    @property
    def due(self) -> float:
        """When to call `flush`, by the clock of `now`; infinite if nothing waits."""
        return min(*self._parts_due.values(), *self._prompts_due.values())

    def feed(self, name: str, data: bytes, now: float) -> str:
        """Add bytes of a stream, and return the events that are complete."""
        lines = self._lines[name]
        found = lines.feed(data)
        waits = lines.pending
        if found or not waits:
            self._parts_due[name] = math.inf
        if waits:
            self._parts_due[name] = min(self._parts_due[name], now + _PAUSE_S)
        if self._prompts:
            self._prompts_due[name] = now + _PROMPT_S if lines.unfinished else math.inf
        return _events(name, found)

    def flush(self, now: float) -> str:
        """Return the parts of unfinished lines that are due."""
        text = ""
        for name, lines in self._lines.items():
            if now >= self._prompts_due[name]:
                text += _events(name, lines.show())
                self._prompts_due[name] = self._parts_due[name] = math.inf
            elif now >= self._parts_due[name]:
                text += _events(name, lines.pause())
                self._parts_due[name] = math.inf
        return text

    def end(self, *names: str) -> str:
        """Return the rest of the given streams, or of both, at their end or before a gap in them."""
        text = ""
        for name in names or self._lines:
            text += _events(name, self._lines[name].end())
            self._parts_due[name] = self._prompts_due[name] = math.inf
        return text


def _events(name: str, texts: list[str]) -> str:
    return "".join(event(name, text) for text in texts)
