"""QMP, the control language of QEMU: one command at a time over the machine's unix socket.

Source: docs/interop/qmp-spec.rst of QEMU 7.2. Files for snapshots are passed as descriptors (`getfd`), so that QEMU can
run under a seccomp filter that forbids starting programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from ..disk.os_errors import EXHAUSTED, translate_os_error
from ..errors import Unavailable
from .unix_socket import UnixStream, connect_unix

ANSWER_S = 10.0
"""Seconds that QEMU may take to answer, once it has started."""

_MAX_LINE = 1024 * 1024
_GONE = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead)


class QmpError(Unavailable):
    """QEMU refused a command, or its control socket is gone."""


class Qmp:
    """A session on one machine's control socket, with one deadline for each answer."""

    def __init__(self, stream: UnixStream, deadline_s: float) -> None:
        self._stream = stream
        self._deadline_s = deadline_s
        self._lines = BufferedByteReceiveStream(stream)
        self._sent = 0
        self.version = ""

    @classmethod
    async def connect(cls, socket: Path, *, deadline_s: float = ANSWER_S) -> Self:
        """Connect to a QEMU that runs or starts, and negotiate.

        Raises:
            QmpError: It has ended, or does not answer within the deadline.
            HostExhausted: The server has too many open files.
        """
        try:
            with anyio.fail_after(deadline_s):
                session = cls(await connect_unix(socket), deadline_s)
                try:
                    session.version = _version(await session._line())
                    await session.run("qmp_capabilities")
                except BaseException:
                    with anyio.CancelScope(shield=True):
                        await session.aclose()
                    raise
        except TimeoutError:
            raise QmpError(f"The hypervisor did not answer on its control socket within {deadline_s:g} s") from None
        except _GONE as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise translate_os_error(error, "the hypervisor's control socket", socket) from error
            raise QmpError("The hypervisor has ended") from error
        return session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the session; the machine keeps running."""
        await self._stream.aclose()

    async def run(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command and return what QEMU answers.

        Raises:
            QmpError: QEMU refused it, did not answer within the deadline, or is gone.
        """
        return await self._exchange(command, arguments, None)

    async def pass_file(self, name: str, path: Path, flags: int) -> None:
        """Open a file here and pass it to QEMU under a name, for `fd:NAME` migration addresses."""
        descriptor = await anyio.to_thread.run_sync(os.open, path, flags, 0o600)
        try:
            await self._exchange("getfd", {"fdname": name}, descriptor)
        finally:
            os.close(descriptor)

    async def add_file(self, name: str, path: Path, flags: int) -> int:
        """Open a file here and pass it to QEMU for `/dev/fdset/NUMBER` file names.

        Args:
            name: By which `query-fdsets` lists it.
            path: The file, which exists.
            flags: How to open it; QEMU can use it only in this way.

        Returns:
            The number of its set.
        """
        descriptor = await anyio.to_thread.run_sync(os.open, path, flags)
        try:
            return (await self._exchange("add-fd", {"opaque": name}, descriptor))["fdset-id"]
        finally:
            os.close(descriptor)

    async def _exchange(self, command: str, arguments: dict[str, Any] | None, descriptor: int | None) -> Any:
        self._sent += 1
        number = self._sent
        message = json.dumps({"execute": command, "arguments": arguments or {}, "id": number}).encode() + b"\n"
        try:
            with anyio.fail_after(self._deadline_s):
                if descriptor is None:
                    await self._stream.send(message)
                else:
                    await self._stream.send_fds(message, [descriptor])
                while True:
                    answer = json.loads(await self._line())
                    if answer.get("id") != number:  # an event, or the answer to an abandoned command
                        continue
                    if "return" in answer:
                        return answer["return"]
                    if "error" in answer:
                        raise QmpError(f"The hypervisor refused {command}: {answer['error'].get('desc', '')}")
        except TimeoutError:
            raise QmpError(f"The hypervisor did not answer {command} within {self._deadline_s:g} s") from None
        except _GONE as error:
            raise QmpError(f"The hypervisor ended during {command}") from error

    async def _line(self) -> bytes:
        return await self._lines.receive_until(b"\n", _MAX_LINE)


@asynccontextmanager
async def qmp(socket: Path, *, deadline_s: float = ANSWER_S) -> AsyncGenerator[Qmp]:
    """Open a session for the length of a block.

    Raises:
        QmpError: The process has ended, or does not answer within the deadline.
    """
    session = await Qmp.connect(socket, deadline_s=deadline_s)
    async with session:
        yield session


def _version(greeting: bytes) -> str:
    """Read QEMU's version from its greeting, such as `7.2.22`; empty if it has none."""
    try:
        said = json.loads(greeting)["QMP"]["version"]["qemu"]
        return f"{said['major']}.{said['minor']}.{said['micro']}"
    except (ValueError, KeyError, TypeError):
        return ""
