"""The tests marked `kvm`, run in an emulated host beside other tests: it takes one processor for minutes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from vmm.images.catalogue import Catalogue

from .__main__ import PROJECT, SHORT, cache_directory, job_environment, pytest_job
from .host import Done, check, run
from .kernel import HostKernel, host_kernel

LIMIT_S = 900
# Now and then the emulated host itself stands still, which says nothing of what is tested in it.
TRIES = 2


class ShortSet:
    """The set under way for the length of a block, at whose end it is broken off.

    Args:
        catalogue: The images, built here first: in there it would take half an hour.
        results: Where its report goes.
    """

    def __init__(self, catalogue: Catalogue, results: Path) -> None:
        self.results = results
        self._catalogue = catalogue
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._done = self._thread.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.shutdown()

    def done(self) -> Done:
        """Wait for its end.

        Raises:
            NoHost: No host can be emulated here.
        """
        return self._done.result()

    def _run(self) -> Done:
        check()
        kernel = anyio.run(self._prepare)
        done = self._once(kernel)
        for _ in range(1, TRIES):
            if done.status is None and not self._stop.is_set():
                done = self._once(kernel)
        return done

    async def _prepare(self) -> HostKernel:
        for name in self._catalogue.names():
            await self._catalogue.ensure(name)
        return await host_kernel(cache_directory())

    def _once(self, kernel: HostKernel) -> Done:
        return run(
            kernel,
            pytest_job(["-q", *SHORT]),
            directory=PROJECT,
            environment=job_environment(),
            results=self.results,
            limit_s=LIMIT_S,
            stop=self._stop,
        )
