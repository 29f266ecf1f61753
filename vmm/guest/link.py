"""The host's end of the guest link: one object for everything inside a sandbox."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from .archives import ArchiveCalls
from .caller import GuestRefusalError, deadline, pack_request, read_answer
from .connection import Dial
from .decoding import plain
from .files import FileCalls
from .network import NetworkCalls
from .processes import ProcessCalls
from .sessions import SessionCalls
from .terminals import TerminalCalls
from .values import Certificate, GuestActivity, GuestMetrics, Identity, Ping
from .vitality import GRACE, Grace
from .volumes import VolumeCalls
from .watches import WatchCalls

_IDENTIFY_S = 30.0
"""Deadline of the first call to a restored guest, which may be silent for a while on a busy host."""


class GuestLink(
    ProcessCalls, FileCalls, ArchiveCalls, TerminalCalls, SessionCalls, WatchCalls, NetworkCalls, VolumeCalls
):
    """Calls into one guest, over connections that later calls reuse. Many tasks may use it at once.

    Every call has a deadline: a late one while the guest is alive, an early one once it falls silent (LinkTimeout). No
    call is repeated once it may have had an effect (LinkError). A dead idle connection is noticed before anything is
    sent on it, and replaced.

    Args:
        dial: Opens a new connection to the agent.
        secret: The secret that the agent and the host share; at least 16 bytes.
        max_idle: How many idle connections to keep.
        grace: How long calls wait beyond their own time, for a guest that is alive and for one that is silent.
    """

    def __init__(self, dial: Dial, secret: bytes, *, max_idle: int = 32, grace: Grace = GRACE) -> None:
        super().__init__(dial, secret, max_idle, grace)

    @property
    def silent_s(self) -> float:
        """Seconds for which the guest has not answered, as noticed by calls; 0 while it answers."""
        return self._vitality.silent_s

    async def answers(self) -> bool:
        """Ping the guest, and tell whether it answers before it counts as silent."""
        return await self._vitality.answers()

    def held(self) -> AbstractContextManager[None]:
        """Ignore the guest's silence during a block, because the host pauses it."""
        return self._vitality.held()

    async def aclose(self) -> None:
        """Close the link and its idle connections."""
        await self._pool.aclose()

    async def drop_connections(self) -> None:
        """Close idle connections, before a save and after a restore; those in use close after their operation."""
        await self._pool.drop()

    async def ping(self, *, timeout_ms: int = 5000) -> Ping:
        """Check that the agent answers, and return its description of itself."""
        with deadline("ping", timeout_ms / 1000):
            reply = await self._exchange(pack_request("ping", {}, with_body=False))
        return plain(Ping, reply.value)

    async def identify(self, identity: Identity) -> Certificate:
        """Give the guest its new identity and the host's time.

        From now on the link uses the new secret, and all other connections are closed.

        Raises:
            GuestError: A step failed, and this machine must not be used.
        """
        with deadline("identify", _IDENTIFY_S):
            async with self._pool.connection() as connection:
                values: dict[str, object] = {
                    "entropy": identity.entropy.hex(),
                    "clock_ns": time.time_ns(),  # not earlier, because opening the connection may take seconds
                    "machine_id": identity.machine_id,
                    "hostname": identity.hostname,
                    "secret": identity.secret.hex(),
                }
                if identity.nic is not None:
                    values["nic"] = dict(identity.nic)
                await connection.send(pack_request("identify", values, with_body=False))
                try:
                    reply = await read_answer(connection)
                except GuestRefusalError as refused:
                    raise refused.error from None
                await self._pool.renew(identity.secret, connection)
        return plain(Certificate, reply.value)

    async def metrics(self) -> GuestMetrics:
        """Measure the guest's memory, disk and processors."""
        return plain(GuestMetrics, (await self._call("metrics")).value)

    async def activity(self, *, timeout_ms: int = 5000) -> GuestActivity:
        """Ask what runs in the guest independently of calls, and would be interrupted by sleep."""
        return plain(GuestActivity, (await self._call("activity", more_s=timeout_ms / 1000)).value)

    async def set_clock(self) -> None:
        """Set the guest's clock to the host's."""
        await self.ping()  # Open a connection first, so that the time that this takes does not make the clock late.
        await self._call("set_clock", clock_ns=time.time_ns())
