"""What leaves the sandbox waits here until the host has decided about it: TCP connections and DNS queries."""

from __future__ import annotations

import _thread
import base64
import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .arguments import Arguments
from .carrier import Carrier
from .channel import Channel
from .network import NetworkSockets, original_destination, receive_query, send_answer
from .refusals import CONFLICT, GUEST, RefusalError
from .splice import reset

_MOST = 512
_MOST_QUERIES = 64
_WAIT_S = 60.0
_QUERY_S = 5.0
_CHECK_S = 1.0
_BREATH = 0.05
_MOST_ANSWER = 65535
_NO_NETWORK = "the sandbox has no network: its kernel lacks nf_tables or dummy devices; see its console"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """What the host has not decided about yet.

    Attributes:
        event: What the host is told.
        until: When it is given up, in monotonic seconds.
        sock: The connection, if it is one.
        answer: Sends the answer, if it is a query.
    """

    event: dict[str, Any]
    until: float
    sock: socket.socket | None = None
    answer: Callable[[bytes], None] | None = None

    def drop(self) -> None:
        if self.sock is not None:
            reset(self.sock)


class Outbound:
    """Queues connections and queries, and serves the host's decisions.

    Args:
        sockets: The agent's ends in the sandbox's network; None if there is none.
        carrier: Carries the connections that the host lets through.
    """

    def __init__(self, sockets: NetworkSockets | None, carrier: Carrier) -> None:
        self._sockets = sockets
        self._carrier = carrier
        self._lock = _thread.allocate_lock()
        self._waiting: dict[int, _Waiting] = {}
        self._untold: list[int] = []
        self._number = 0
        self._pollers: list[_thread.LockType] = []

    def serve(self) -> None:
        """Start to accept what leaves the sandbox. To be called once, after the last fork without exec."""
        if self._sockets is not None:
            _thread.start_new_thread(self._accept, (self._sockets,))

    def drop(self) -> None:
        """Break off what waits: a clone must not go on with what its parent had begun."""
        with self._lock:
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._untold.clear()
        for item in waiting:
            item.drop()

    def poll(self, channel: Channel, arguments: Arguments) -> None:
        """Answer with what has come since the last time; wait for it up to `wait_ms`.

        With `again`, answer with all that waits. A call that was open when the machine was saved may still wait here
        for a host that is gone: it must not take what is meant for this one.
        """
        if self._sockets is None:
            raise RefusalError(GUEST, _NO_NETWORK)
        wait_s = arguments.integer("wait_ms") / 1000
        again = arguments.flag("again")
        come = _thread.allocate_lock()
        come.acquire()
        with self._lock:
            if again:
                for other in self._pollers:
                    if other.locked():
                        other.release()
                self._pollers.clear()
                self._untold = list(self._waiting)
            self._pollers.append(come)
            if self._untold:
                come.release()
        come.acquire(timeout=wait_s)
        events: list[dict[str, Any]] = []
        with self._lock:
            if come in self._pollers:
                self._pollers.remove(come)
                untold, self._untold = self._untold, []
                events = [self._waiting[number].event for number in untold if number in self._waiting]
        channel.send_result({"events": events})

    def refuse(self, channel: Channel, arguments: Arguments) -> None:
        """Reset a connection; a no-op if it is not there any more."""
        item = self._take(arguments.integer("id"))
        if item is not None:
            item.drop()
        channel.send_result({})

    def answer(self, channel: Channel, arguments: Arguments) -> None:
        """Answer a query with the DNS message that comes as the request's data; a no-op if it was given up."""
        number = arguments.integer("id")
        message = channel.whole_body(_MOST_ANSWER)
        item = self._take(number)
        if item is not None and item.answer is not None:
            with contextlib.suppress(OSError):  # Who asked has gone.
                item.answer(message)
        channel.send_result({})

    def carry(self, channel: Channel, arguments: Arguments) -> None:
        """Carry a connection over this one until it ends."""
        item = self._take(arguments.integer("id"))
        if item is None or item.sock is None:
            raise RefusalError(CONFLICT, "the program has closed the connection, or it waited too long")
        self._carrier.carry(channel, item.sock)

    def _accept(self, sockets: NetworkSockets) -> None:
        poll = select.poll()
        poll.register(sockets.tcp, select.POLLIN)
        poll.register(sockets.udp, select.POLLIN)
        while sockets.tcp.fileno() >= 0:
            # Only this thread adds to what waits. While nothing does, an idle machine stays idle.
            ready = [descriptor for descriptor, _ in poll.poll(_CHECK_S * 1000 if self._waiting else None)]
            try:
                if sockets.tcp.fileno() in ready:
                    self._accept_connection(sockets)
                if sockets.udp.fileno() in ready:
                    self._accept_query(sockets)
                self._give_up()
            except OSError:
                time.sleep(_BREATH)  # It went away while it waited, or there are no descriptors left at the moment.
            except Exception as error:
                sys.excepthook(type(error), error, error.__traceback__)
                time.sleep(_BREATH)

    def _accept_connection(self, sockets: NetworkSockets) -> None:
        sock, _ = sockets.tcp.accept()
        try:
            address, port = original_destination(sock)
        except OSError:
            reset(sock)  # It was made to this very port.
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._add({"kind": "tcp", "address": address, "port": port}, _WAIT_S, sock=sock):
            reset(sock)

    def _accept_query(self, sockets: NetworkSockets) -> None:
        message, local, sender = receive_query(sockets.udp)

        def answer(reply: bytes) -> None:
            send_answer(sockets.udp, reply, local, sender)

        event = {"kind": "dns", "query": base64.b64encode(message).decode()}
        self._add(event, _QUERY_S, answer=answer)

    def _add(
        self,
        event: dict[str, Any],
        wait_s: float,
        *,
        sock: socket.socket | None = None,
        answer: Callable[[bytes], None] | None = None,
    ) -> bool:
        """Queue something for the host; False if too much waits already."""
        with self._lock:
            alike = sum((item.sock is None) == (sock is None) for item in self._waiting.values())
            if alike >= (_MOST if sock is not None else _MOST_QUERIES):
                return False
            self._number += 1
            self._waiting[self._number] = _Waiting(
                event={"id": self._number, **event}, until=time.monotonic() + wait_s, sock=sock, answer=answer
            )
            self._untold.append(self._number)
            for come in self._pollers:
                if come.locked():
                    come.release()
        return True

    def _take(self, number: int) -> _Waiting | None:
        with self._lock:
            return self._waiting.pop(number, None)

    def _give_up(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [number for number, item in self._waiting.items() if item.until < now]
            items = [self._waiting.pop(number) for number in late]
        for item in items:
            item.drop()
