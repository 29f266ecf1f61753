"""One run of `casemate serve`: images, services, web server, signals and the welcome message."""

from __future__ import annotations

import gc
import resource
import signal
import time
from typing import TYPE_CHECKING

import anyio
import structlog

from mcp_server import snippets
from mcp_server.app import open_catalogue, open_services
from mcp_server.image_names import image_named
from vmm.errors import CasemateError
from vmm.sandboxes.spec import SandboxSpec

from ..http.serve import WebServer, listen
from .console import note, out
from .progress import shown_progress
from .shutdown import Shutdown, stop_hint

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from mcp_server.app import Services
    from mcp_server.settings import Settings
    from vmm.images.catalogue import Catalogue

# A database that starts at boot together with this server needs up to a minute.
_PATIENCE_S = 60.0
_FILES = 65536
"""As in the systemd unit: two for each connection of a sandbox, and a user's default is 1,024 for all."""
_log = structlog.stdlib.get_logger("casemate.serve")


class Service:
    """One run of the server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: WebServer | None = None
        self._shutdown = Shutdown(settings.on_stop)
        self._last_note = "Stopped before the server was ready."

    async def run(self) -> None:
        """Serve until a signal arrives."""
        _raise_file_limit()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._handle_signals, tasks)
            catalogue = open_catalogue(self._settings)
            with shown_progress() as progress:
                image = image_named(self._settings.default_image, catalogue.names())
                await catalogue.ensure(image, progress=progress)
            async with open_services(self._settings, patience_s=_PATIENCE_S) as services:
                # Only now: before the lock is held, another server of another version may use the directory.
                await _prune_images(catalogue)
                await self._serve(services)
            tasks.cancel_scope.cancel()
        note(self._last_note)

    async def _serve(self, services: Services) -> None:
        listeners = [listen(self._settings.host, port) for port in self._settings.listening]
        url = self._settings.url(listeners[0].getsockname()[1])

        def started() -> None:
            # What is there now stays: no collection has to look at it again.
            gc.collect()
            gc.freeze()
            services.lock.announce(url)
            _print_welcome(self._settings, url, services)

        self._server = WebServer(services.web(), started, trusted_proxies=self._settings.trusted_proxies)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(services.run)
            if self._settings.warm:
                tasks.start_soon(_warm, services)
            await self._server.serve(sockets=listeners)
            tasks.cancel_scope.cancel()
        self._last_note = await self._shutdown.settle(services.fleet.lifecycle)

    async def _handle_signals(self, tasks: TaskGroup, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            task_status.started()
            async for number in received:
                self._shutdown.handle(number)
                if self._server is None:
                    tasks.cancel_scope.cancel()
                else:
                    self._server.stop(number)


def _raise_file_limit() -> None:
    """Let this process open as many files as the host allows it, up to what a server needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _prune_images(catalogue: Catalogue) -> None:
    """Remove images of earlier versions; machines that still use one hold it open."""
    try:
        removed = await catalogue.prune()
    except (CasemateError, OSError) as error:
        _log.warning("old images not removed", reason=str(error))
        return
    if removed:
        _log.info("old images removed", parts=[path.name for path in removed])


async def _warm(services: Services) -> None:
    """Build the default template now, so that the first sandbox does not wait for it."""
    defaults = services.defaults
    spec = SandboxSpec(name="default", image=defaults.image, cpu=defaults.cpu, mem=defaults.mem)
    started = time.monotonic()
    try:
        await services.fleet.prepare(spec.image, cpu=spec.cpu, mem=spec.mem)
    except CasemateError as error:
        _log.warning("template not prepared", reason=str(error))
        return
    _log.info("template ready", image=spec.image, cpu=spec.cpu, mem=spec.mem, s=round(time.monotonic() - started, 1))


def _print_welcome(settings: Settings, url: str, services: Services) -> None:
    key = settings.key_file
    cursor = "\n".join(f"    {line}" for line in snippets.cursor(url).splitlines())
    out.print(
        f"""
Casemate serves on {url}{snippets.ENDPOINT}
  machines   {services.hypervisor}
  network    {services.network}
  policy     {settings.network} unless a sandbox has its own
  data       {settings.data}
  store      {_store(settings)}
  key        {key}
  access     {_access(settings)}

Claude Code:

    {snippets.claude_code(url, key)}

Cursor, in .cursor/mcp.json, started with CASEMATE_API_KEY set:

{cursor}

    {snippets.export(key)}

curl:

    {snippets.curl(url, key)}

{stop_hint(settings.on_stop)}
""",
        markup=False,
    )


def _store(settings: Settings) -> str:
    return "SQLite" if settings.mongo_uri is None else f"MongoDB, database {settings.mongo_db}"


def _access(settings: Settings) -> str:
    registration = f"registration is {settings.registration_policy}"
    if settings.local_mode:
        return f"NO KEY NEEDED: every program on this host acts as the local user (local mode); {registration}"
    return f"with a key; {registration}"
