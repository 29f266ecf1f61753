"""`casemate serve`: check the settings and the data directory, then run the server."""

from __future__ import annotations

from mcp_server.settings import Settings

from ..data_dir_lock import DataDirInUse, holder_url
from ..http.serve import listen
from ..observability import logs
from .console import prepare_directory, run_server


def serve() -> None:
    """Serve sandboxes over MCP and REST; the first start builds the default image and creates a local key."""
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    if url := holder_url(settings.data):
        raise DataDirInUse(settings.data, url)
    listen(settings.host, settings.port).close()
    prepare_directory(settings.data)
    # Imported late: loading the whole server takes longer than most other commands run.
    from .service import Service  # noqa: PLC0415

    run_server(lambda: Service(settings).run())
