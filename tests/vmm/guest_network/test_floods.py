"""Sandboxes that ask for too much: what it costs the server is bounded, others are served, and nothing is left of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from tests.vmm.guest_network.boxes import ALICE, WAIT_MS, made, said
from tests.vmm.network_world import SITE, World
from tests.waiting import until
from vmm.fleet import Fleet
from vmm.guest.values import Command
from vmm.network.way import MOST_CONNECTIONS

pytestmark = [pytest.mark.anyio, pytest.mark.vm]

HELD = 9
CONNECTIONS = """
import errno, resource, select, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
poll, open_, ended = select.poll(), {}, 0
for _ in range(10_000):
    sock = socket.socket(); sock.setblocking(False)
    sock.connect_ex(('www.example.com', 9))
    open_[sock.fileno()] = sock; poll.register(sock, select.POLLIN)
    for number, _ in poll.poll(0):
        poll.unregister(number); open_.pop(number).close(); ended += 1
while ended < 10_000 - 512:
    for number, _ in poll.poll():
        poll.unregister(number); open_.pop(number).close(); ended += 1
print(len(open_), ended)
"""
