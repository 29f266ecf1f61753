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
_REDIAL_S = (0.01, 0.05, 0.2, 0.5)
_ERRORS: dict[str, type[CasemateError]] = {
    error.code: error
    for error in (InvalidInput, GuestFileMissing, GuestFileRefused, GuestDiskFull, ProcessMissing, GuestError)
}


class _Closed(LinkError):
    """The connection ended while something was awaited."""


class Connection:
    """Frames over one stream. Not safe for several tasks at once, except that one may send while another receives.

    Attributes:
        generation: Which of the link's secrets it was opened with; a pool keeps only the newest.
    """

    def __init__(self, stream: ByteStream, generation: int) -> None:
        self.generation = generation
        self._stream = stream
        self._buffer = bytearray()

    @classmethod
    async def open(cls, dial: Dial, secret: bytes, generation: int) -> Connection:
        """Dial, and go through the handshake.

        Raises:
            LinkError: Nobody answers, or not an agent that knows the secret. It learns nothing of use.
        """
        for pause in _REDIAL_S:
            connection = await cls._dialled(dial, generation)
            try:
                if await connection._greeted(secret):
                    return connection
            except BaseException:
                await connection.aclose()
                raise
            # Whoever closes before a word was said has done nothing: a network that was just restored, most often.
            await connection.aclose()
            await anyio.sleep(pause)
        raise LinkError("The guest closes every connection before it says a word")

    @classmethod
    async def _dialled(cls, dial: Dial, generation: int) -> Connection:
        try:
            return cls(await dial(), generation)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise LinkError(f"The guest cannot be reached: {error}") from error

    async def aclose(self) -> None:
        """Close at once, even while the task is being cancelled."""
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)

    def alive(self) -> bool:
        """Whether an idle connection is of use: the agent has nothing to say on it, so whatever comes is its end."""
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
            raise LinkError("The connection to the guest broke while it was told what to do") from error

    async def receive(self) -> tuple[int, bytes]:
        """The next frame.

        Raises:
            LinkError: The connection broke, or what came is no frame.
        """
        buffer = self._buffer
        await self._fill(frames.HEADER.size)
        try:
            kind, length = frames.unpack_header(buffer)
        except frames.FrameError as error:
            raise LinkError(f"The guest does not speak the link's protocol: {error}") from error
        end = frames.HEADER.size + length
        await self._fill(end)
        payload = bytes(memoryview(buffer)[frames.HEADER.size : end])
        del buffer[:end]
        return kind, payload

    async def _greeted(self, secret: bytes) -> bool:
        """Go through the handshake; False if the other side closed before it said anything."""
        try:
            kind, hello = await self.receive()
        except _Closed:
            if self._buffer:
                raise
            return False
        if kind != frames.HELLO or len(hello) != 1 + frames.NONCE:
            raise LinkError("The guest does not greet as an agent does")
        if hello[0] != frames.VERSION:
            raise LinkError(
                f"The guest's agent speaks version {hello[0]}, the server {frames.VERSION}",
                hint="Rebuild the images: casemate image build",
            )
        agent_nonce, host_nonce = hello[1:], os.urandom(frames.NONCE)
        await self.send(frames.pack(frames.AUTH, host_nonce + frames.host_proof(secret, agent_nonce, host_nonce)))
        kind, proof = await self.receive()
        if kind != frames.PROOF or not frames.same(proof, frames.agent_proof(secret, agent_nonce, host_nonce)):
            raise LinkError("What answers as the guest's agent does not know the sandbox's secret")
        return True

    async def _fill(self, size: int) -> None:
        buffer = self._buffer
        try:
            while len(buffer) < size:
                buffer += await self._stream.receive(_RECEIVE)
        except anyio.EndOfStream as error:
            raise _Closed("The guest closed the connection; whether the call took effect is not known") from error
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise _Closed("The connection to the guest broke; whether the call took effect is not known") from error


def unpack(payload: bytes) -> dict[str, Any]:
    """The object in a JSON frame.

    Raises:
        LinkError: It is none.
    """
    try:
        return frames.unpack_json(payload)
    except frames.FrameError as error:
        raise LinkError(f"The guest does not speak the link's protocol: {error}") from error


def refusal(payload: bytes) -> CasemateError:
    """The error that an ERROR frame tells of."""
    value = unpack(payload)
    kind = _ERRORS.get(str(value.get("code")), GuestError)
    return kind(str(value.get("message", "the guest gave no reason"))[:500])
