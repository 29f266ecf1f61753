"""All templates of a host: built on demand, once for all concurrent callers, and only a limited number is kept."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from ..disk.os_errors import translate_os_errors
from ..errors import CasemateError, Damaged, Unavailable
from ..hypervisor.base import Hypervisor
from ..hypervisor.process import orphans
from ..images.catalogue import ImageSet
from ..repeated_warnings import RepeatedWarnings
from . import template as building
from .certificates import NO_CERTIFICATES, Certificates
from .checkpoint import Checkpoint
from .template import template_key

log = structlog.get_logger(__name__)

Report = Callable[[str], Awaitable[None]]
"""Receives what is being done, described for a user."""

_KEPT = 8


class Templates:
    """The templates below one directory.

    Args:
        driver: The hypervisor that boots them.
        root: Their directory; used by this object alone.
        tasks: Runs builds, so that they finish even if the caller goes away.
        verify: Compares every file of an image with its digest; called before every build.
        certificates: Authorities that the guests trust besides Debian's.
    """

    def __init__(
        self,
        driver: Hypervisor,
        root: Path,
        tasks: TaskGroup,
        verify: Callable[[str], Awaitable[None]],
        certificates: Certificates = NO_CERTIFICATES,
    ) -> None:
        self._driver = driver
        self._root = root
        self._tasks = tasks
        self._verify = verify
        self._certificates = certificates
        self._loaded: OrderedDict[str, Checkpoint] = OrderedDict()
        self._builds: dict[str, _Build] = {}
        self._measured_khz = 0
        self._one_at_a_time = anyio.Lock()
        self._warnings = RepeatedWarnings()

    async def get(self, images: ImageSet, *, cpu: int, mem: int, report: Report) -> Checkpoint:
        """Return the template of an image and a size, and build it first if needed, which takes several seconds.

        Raises:
            Unavailable: It could not be built.
        """
        key = template_key(self._driver, images, cpu, mem, self._certificates)
        template = await anyio.to_thread.run_sync(self._load, key)
        if template is None:
            template = await self._built(key, images, cpu, mem, report)
        self._loaded[key] = template
        self._loaded.move_to_end(key)
        return template

    async def sweep(self) -> None:
        """Remove what an interrupted build left. Call before the first `get`.

        Logs what cannot be removed, and leaves it for the next start.

        Raises:
            HostExhausted: The directory cannot be made or read.
            Unavailable: Likewise.
        """
        with translate_os_errors("the directory of templates", self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            left = list(self._root.glob(".build-*"))
            working = await anyio.to_thread.run_sync(orphans, self._root)
        for directory, processes in working.items():
            for process in processes:
                with self._warnings.about("template's process not ended", directory=str(directory)):
                    await process.kill()
        for directory in left:
            with self._warnings.about("remains of a template not removed", directory=str(directory)):
                await anyio.to_thread.run_sync(shutil.rmtree, directory)

    def _load(self, key: str) -> Checkpoint | None:
        """Load a template that was built before; None if it is damaged, so that it is built again."""
        try:
            template = self._loaded.get(key) or Checkpoint.load(self._root / key)
        except Damaged as error:
            log.warning("template is built again", template=key, reason=error.message)
            return None
        lost = [] if template is None else [path.name for path in template.files() if not path.exists()]
        if lost:
            log.warning("template is built again", template=key, reason=f"{', '.join(lost)} of it is missing")
        return None if lost else template

    async def _built(self, key: str, images: ImageSet, cpu: int, mem: int, report: Report) -> Checkpoint:
        build = self._builds.get(key)
        if build is None:
            build = self._builds[key] = _Build()
            self._tasks.start_soon(self._run, key, build, images, cpu, mem)
        await report(f"Booting a template with {cpu} CPU and {mem} MiB, once for this size")
        await build.done.wait()
        if build.template is None:
            raise build.error or Unavailable("The template's build was interrupted: the server is stopping")
        return build.template

    async def _run(self, key: str, build: _Build, images: ImageSet, cpu: int, mem: int) -> None:
        try:
            async with self._one_at_a_time:
                await self._verify(images.name)
                with translate_os_errors("a template", self._root):
                    await anyio.to_thread.run_sync(self._evict)
                    build.template = await building.build(
                        self._driver,
                        images,
                        self._root,
                        key,
                        cpu=cpu,
                        mem=mem,
                        tsc_khz=self._measured_khz or self._known_rate(),
                        rate_known=self._measured_khz > 0,
                        certificates=self._certificates,
                    )
                    # Of this host since this start: a template that was loaded may come from another processor.
                    self._measured_khz = build.template.hardware.tsc_khz
        except CasemateError as error:
            build.error = error
        except Exception as error:
            log.exception("template not built", template=key)
            build.error = Unavailable(f"The template could not be built: {type(error).__name__}")
        finally:
            del self._builds[key]
            build.done.set()

    def _known_rate(self) -> int:
        measured = (template.hardware.tsc_khz for template in reversed(self._loaded.values()))
        return next((khz for khz in measured if khz), 0) or building.guess_tsc_khz()

    def _evict(self) -> None:
        # Running clones keep the memory file of a removed template open; only new clones need its name.
        kept = [directory for directory in self._root.iterdir() if not directory.name.startswith(".")]
        order = list(self._loaded)
        kept.sort(key=lambda directory: order.index(directory.name) if directory.name in order else -1)
        for directory in kept[: max(0, len(kept) - _KEPT + 1)]:
            self._loaded.pop(directory.name, None)
            with self._warnings.about("template not removed", template=directory.name):
                shutil.rmtree(directory)


class _Build:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.template: Checkpoint | None = None
        self.error: CasemateError | None = None
