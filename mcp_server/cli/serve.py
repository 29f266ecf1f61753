"""`casemate serve`: from nothing to a server that says how to use it, and back within seconds."""

from __future__ import annotations

from mcp_server.settings import Settings

from ..data_dir_lock import DataDirInUse, holder_url
from ..http.serve import listen
from ..observability import logs
from .console import prepare_directory, run_server


def serve() -> None:
    """Serve sandboxes over MCP and REST; on the first start, build the images and make a local key."""
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    if url := holder_url(settings.data):
        raise DataDirInUse(settings.data, url)
    listen(settings.host, settings.port).close()
    prepare_directory(settings.data)
    # Late: the whole server takes longer to load than most other commands take in all.
    from .service import Service  # noqa: PLC0415

    run_server(lambda: Service(settings).run())
