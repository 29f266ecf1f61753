"""The host's watch call: streams what happens to files until the host closes the connection."""

from __future__ import annotations

import _thread
import select
import time
from collections.abc import Generator
from contextlib import contextmanager

from . import frames
from .arguments import Arguments
from .changes import Changes
from .channel import Channel
from .inotify import Inotify
from .known_tree import KnownTree
from .refusals import GUEST, RefusalError, from_os_error
from .watch_room import Room, Share
from .watched_tree import WatchedTree

MOST = 32
"""Watches at once: more than the host begins, since those from before a sleep may not have ended yet."""

_LINGER_S = 0.01
"""How long changes are collected before they are sent, for those that come together."""
_READS = 16
_BEAT_S = 15.0


class Watches:
    """All watches of the sandbox, each of which lives as long as its connection."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._room = Room()

    def watch(self, channel: Channel, arguments: Arguments) -> None:
        """Stream the changes below a path; the result says why they end, when there is nothing to watch any more."""
        path = arguments.path()
        inotify = Inotify()
        try:
            changes = Changes(lambda piece: channel.send(frames.DATA, piece))
            known = KnownTree(
                path,
                arguments.raw("path"),
                inotify,
                changes,
                self._room,
                recursive=arguments.flag("recursive"),
                ignore_hidden=arguments.flag("ignore_hidden"),
            )
            with self._counted(known.share):
                tree = WatchedTree(known, changes)
                known.begin()
                channel.send_raw(frames.pack_json(frames.HEAD, {"directories": known.share.directories}))
                if _follow(channel, inotify, tree, changes):
                    channel.send_result({"reason": tree.ended})
        except OSError as error:
            raise from_os_error(error, path) from error
        finally:
            inotify.close()

    @contextmanager
    def _counted(self, share: Share) -> Generator[None]:
        with self._lock:
            if len(self._room.shares) >= MOST:
                raise RefusalError(GUEST, f"the sandbox has {MOST} watches already; close one")
            self._room.shares.append(share)
        try:
            yield
        finally:
            with self._lock:
                self._room.shares.remove(share)


def _follow(channel: Channel, inotify: Inotify, tree: WatchedTree, changes: Changes) -> bool:
    """Send changes until there is nothing to watch any more; return False if the host has closed the connection."""
    poll = select.poll()
    poll.register(inotify.fileno(), select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN | select.POLLRDHUP)
    beat_at = time.monotonic() + _BEAT_S
    drained = True
    while not tree.ended:
        wait_s = max(beat_at - time.monotonic(), 0) if drained else 0
        ready = [descriptor for descriptor, _ in poll.poll(wait_s * 1000)]
        if channel.fileno() in ready:
            return False
        if ready or not drained:
            time.sleep(_LINGER_S)
            drained = _drain(inotify, tree)
            if drained:
                if tree.is_waiting:
                    time.sleep(_LINGER_S)
                    tree.handle(inotify.read())
                    tree.settle()
                tree.catch_up()
            changes.flush()
        if time.monotonic() >= beat_at:
            tree.check()
            changes.flush()
            channel.send(frames.DATA, b"")  # So that the host can tell that nothing happens from a dead link.
            beat_at = time.monotonic() + _BEAT_S
    return True


def _drain(inotify: Inotify, tree: WatchedTree) -> bool:
    """Handle what has happened; return False if more has happened meanwhile, and what is known should be sent first."""
    for _ in range(_READS):
        events = inotify.read()
        if not events:
            return True
        tree.handle(events)
        if tree.ended:
            break
    return False
