"""Signs of life to the host during work that takes long, and of the host's interest in it."""

from __future__ import annotations

import contextlib
import time

from . import frames
from .channel import Channel, ClosedError

_BEAT_S = 1.0
_LOOK_S = 0.2


class Pulse:
    """Tells the host that the agent works, and finds out when nobody waits for it any longer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._next_beat = time.monotonic() + _BEAT_S
        self._next_look = 0.0

    def check(self, *, surely: bool = False) -> None:
        """Send a sign of life if one is due; called often.

        Args:
            surely: Whether to look for the host even if the last look was just now: before a step that is final.

        Raises:
            ClosedError: The host has closed the connection, because its client is gone.
        """
        now = time.monotonic()
        if now < self._next_look and not surely:
            return
        self._next_look = now + _LOOK_S
        if self._channel.gone():
            raise ClosedError
        if now >= self._next_beat:
            self._next_beat = now + _BEAT_S
            self._channel.send(frames.DATA, b"")

    def beat(self) -> None:
        """Do the same in work that must not be interrupted."""
        with contextlib.suppress(ClosedError):
            self.check()
