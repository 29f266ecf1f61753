"""A machine that is this host: programs are its processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from runs.engine.machine import Ended, MachineError, Sink


class HostMachine:
    """Starts programs in a directory.

    Attributes:
        limits: The time limits that were given, by program.
        lost: Programs at which the machine is lost.
    """

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self.limits: dict[str, int] = {}
        self.lost: set[str] = set()

    async def run(self, argv: Sequence[str], *, stdin: bytes, timeout_s: int, sink: Sink) -> Ended:
        self.limits[argv[0]] = timeout_s
        if argv[0] in self.lost:
            raise MachineError("the machine died")
        process = await anyio.open_process(list(argv), cwd=self._cwd, start_new_session=True)
        try:
            await self._talk(process.stdin, stdin, {"stdout": process.stdout, "stderr": process.stderr}, sink)
            return Ended(exit_code=await process.wait())
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.aclose()

    async def _talk(
        self, writer: ByteSendStream | None, stdin: bytes, readers: dict[str, ByteReceiveStream | None], sink: Sink
    ) -> None:
        failures: list[Exception] = []
        async with anyio.create_task_group() as tasks:

            async def read(name: str) -> None:
                try:
                    async for piece in cast("ByteReceiveStream", readers[name]):
                        await sink(name, piece)
                except Exception as error:
                    failures.append(error)
                    tasks.cancel_scope.cancel()

            for name in readers:
                tasks.start_soon(read, name)
            assert writer is not None
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await writer.send(stdin)
            await writer.aclose()
        if failures:
            raise failures[0]
