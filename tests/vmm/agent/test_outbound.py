"""What waits in the agent for the host's decision: here DNS queries, which need no rules of a kernel."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Generator
from typing import Any

import pytest

from tests.waiting import PATIENCE_S
from vmm.agent import frames
from vmm.agent.arguments import Arguments
from vmm.agent.carrier import Carrier
from vmm.agent.channel import Channel
from vmm.agent.network import NetworkSockets
from vmm.agent.outbound import Outbound

WAIT_MS = int(PATIENCE_S * 1000)


@pytest.fixture
def udp() -> Generator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        made.bind(("127.0.0.1", 0))
        yield made


@pytest.fixture
def outbound(udp: socket.socket) -> Generator[Outbound]:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        made = Outbound(NetworkSockets(tcp=tcp, udp=udp, port=udp.getsockname()[1]), Carrier(None))
        made.serve()
        yield made


class Poll(threading.Thread):
    """A call of the host, on a connection of its own."""

    def __init__(self, outbound: Outbound, *, again: bool = False, wait_ms: int = WAIT_MS) -> None:
        super().__init__(daemon=True)
        self._outbound = outbound
        self._arguments = Arguments({"wait_ms": wait_ms, "again": again})
        self._agent, self._host = socket.socketpair()
        self.start()

    def run(self) -> None:
        with self._agent:
            self._outbound.poll(Channel(self._agent), self._arguments)

    def events(self) -> list[dict[str, Any]]:
        with self._host:
            self._host.settimeout(PATIENCE_S)
            kind, payload = Channel(self._host).receive()
        self.join()
        assert kind == frames.RESULT
        return frames.unpack_json(payload)["events"]


def ask(udp: socket.socket, message: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.sendto(message, udp.getsockname())


def queries(events: list[dict[str, Any]]) -> list[bytes]:
    return [base64.b64decode(event["query"]) for event in events]


def test_a_query_is_told_once(outbound: Outbound, udp: socket.socket) -> None:
    poll = Poll(outbound)
    ask(udp, b"one")
    assert queries(poll.events()) == [b"one"]
    assert Poll(outbound, wait_ms=0).events() == []


def test_a_host_that_comes_anew_gets_what_waits_and_the_lost_call_gets_nothing(
    outbound: Outbound, udp: socket.socket
) -> None:
    first = Poll(outbound)
    ask(udp, b"one")
    assert queries(first.events()) == [b"one"]
    lost = Poll(outbound)
    anew = Poll(outbound, again=True)
    assert queries(anew.events()) == [b"one"]
    newer = Poll(outbound, again=True)
    assert queries(newer.events()) == [b"one"]
    assert lost.events() == []
    last = Poll(outbound)
    ask(udp, b"two")
    assert queries(last.events()) == [b"two"]


def test_what_waits_is_forgotten_in_a_clone(outbound: Outbound, udp: socket.socket) -> None:
    poll = Poll(outbound)
    ask(udp, b"of the parent")
    assert poll.events()
    outbound.drop()
    assert Poll(outbound, again=True, wait_ms=0).events() == []
