"""One authenticated connection to a guest's agent: the host's side of the handshake, and frames in both directions."""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from vmm.agent import frames
from vmm.errors import (
    CasemateError,
    Conflict,
    GuestDiskFull,
    GuestError,
    GuestFileMissing,
    GuestFileRefused,
    InvalidInput,
    LinkError,
    ProcessMissing,
)

Dial = Callable[[], Awaitable[ByteStream]]

_RECEIVE = 256 * 1024
_ERRORS: dict[str, type[CasemateError]] = {
    error.code: error
    for error in (InvalidInput, Conflict, GuestFileMissing, GuestFileRefused, GuestDiskFull, ProcessMissing, GuestError)
}


class HungUp(LinkError):
    """The other side closed the connection without answering, usually because its network was just restored."""


class _Closed(LinkError):
    """The connection ended while a frame was awaited."""


class Connection:
    """Frames over one stream. Not for several tasks at once, except that one may send while another receives.

    Attributes:
        generation: The number of the link's secret that it was opened with; a pool keeps only the newest.
        loan: How often it was returned to its pool; tells whether another call may have it by now.
    """

    def __init__(self, stream: ByteStream, generation: int, heard: Callable[[], None] | None = None) -> None:
        self.generation = generation
        self.loan = 0
        self._stream = stream
        self._heard = heard
        self._buffer = bytearray()

    @classmethod
    async def open(
        cls, dial: Dial, secret: bytes, generation: int, heard: Callable[[], None] | None = None
    ) -> Connection:
        """Dial once, and perform the handshake.

        Args:
            dial: Opens a new connection to the agent.
            secret: The secret that the agent and the host share.
            generation: The number of that secret.
            heard: Called for each frame that arrives, as a sign of life.

        Raises:
            HungUp: The other side closed the connection without answering.
            LinkError: Nobody answers, or the other side does not know the secret; then it learns nothing useful.
        """
        connection = await cls._dialled(dial, generation, heard)
        try:
            await connection._shake_hands(secret)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    @classmethod
    async def _dialled(cls, dial: Dial, generation: int, heard: Callable[[], None] | None) -> Connection:
        try:
            return cls(await dial(), generation, heard)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise LinkError(f"The guest cannot be reached: {error}") from error

    async def aclose(self) -> None:
        """Close at once, even while the task is being cancelled."""
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)

    def alive(self) -> bool:
        """Tell whether an idle connection is usable: the agent sends nothing on it, so any data means it ended."""
        if self._buffer:
            return False
        descriptor = self._stream.extra(SocketAttribute.raw_socket, None)
        if descriptor is None:
            return True
        poll = select.poll()
        poll.register(descriptor.fileno(), select.POLLIN | select.POLLRDHUP)
        return not poll.poll(0)

    async def send(self, data: bytes | bytearray) -> None:
        """Send packed frames.

        Raises:
            LinkError: The connection broke.
        """
        try:
            await self._stream.send(bytes(data) if isinstance(data, bytearray) else data)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise LinkError("The connection to the guest broke while the request was sent") from error

    async def receive(self, *, most: int = frames.MAX_JSON) -> tuple[int, bytes]:
        """Receive the next frame, with a payload of at most `most` bytes.

        Raises:
            LinkError: The connection broke, or the data is not a frame, or a longer one.
        """
        buffer = self._buffer
        await self._fill(frames.HEADER.size)
        try:
            kind, length = frames.unpack_header(buffer)
        except frames.FrameError as error:
            raise LinkError(f"The guest does not speak the link's protocol: {error}") from error
        if length > most:
            raise LinkError(f"The guest sent a frame of {length} bytes where at most {most} are allowed")
        end = frames.HEADER.size + length
        await self._fill(end)
        payload = bytes(memoryview(buffer)[frames.HEADER.size : end])
        del buffer[:end]
        if self._heard is not None:
            self._heard()
        return kind, payload

    async def _shake_hands(self, secret: bytes) -> None:
        try:
            kind, hello = await self.receive()
        except _Closed as error:
            if self._buffer:
                raise
            raise HungUp("The guest closed the connection without answering") from error
        if kind != frames.HELLO or len(hello) != 1 + frames.NONCE:
            raise LinkError("The guest did not send an agent's greeting")
        if hello[0] != frames.VERSION:
            raise LinkError(
                f"The guest's agent must speak version {frames.VERSION}, got {hello[0]}",
                hint="Rebuild the images: casemate image build",
            )
        agent_nonce, host_nonce = hello[1:], os.urandom(frames.NONCE)
        await self.send(frames.pack(frames.AUTH, host_nonce + frames.host_proof(secret, agent_nonce, host_nonce)))
        kind, proof = await self.receive()
        if kind != frames.PROOF or not frames.same(proof, frames.agent_proof(secret, agent_nonce, host_nonce)):
            raise LinkError("The guest's agent does not know the sandbox's secret")

    async def _fill(self, size: int) -> None:
        buffer = self._buffer
        try:
            while len(buffer) < size:
                buffer += await self._stream.receive(_RECEIVE)
        except anyio.EndOfStream as error:
            raise _Closed("The guest closed the connection; the call may or may not have taken effect") from error
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise _Closed("The connection to the guest broke; the call may or may not have taken effect") from error


def unpack(payload: bytes) -> dict[str, Any]:
    """Unpack the object in a JSON frame.

    Raises:
        LinkError: It is not one.
    """
    try:
        return frames.unpack_json(payload)
    except frames.FrameError as error:
        raise LinkError(f"The guest does not speak the link's protocol: {error}") from error


def refusal(payload: bytes) -> CasemateError:
    """Make the error that an ERROR frame describes."""
    value = unpack(payload)
    kind = _ERRORS.get(str(value.get("code")), GuestError)
    return kind(str(value.get("message", "the guest gave no reason"))[:500])
