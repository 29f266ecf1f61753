"""`casemate serve`: check the settings and the data directory, then run the server."""

from __future__ import annotations

import os

import structlog

from mcp_server.settings import Settings
from mcp_server.settings.env_file import with_env_file
from mcp_server.settings.names import set_without_effect

from ..data_dir_lock import DataDirInUse, holder_url
from ..http.serve import listen
from ..observability import logs
from .console import prepare_directory, run_server
from .options import EnvFileOption

_log = structlog.stdlib.get_logger("casemate.serve")


def serve(env_file: EnvFileOption = None) -> None:
    """Serve sandboxes over MCP and REST; the first start builds the default image and creates a local key."""
    settings = Settings.load(env_file)
    logs.configure(settings.log_level, settings.log_format)
    ignored = [variable for variable, _ in set_without_effect(with_env_file(os.environ, env_file))]
    if ignored:
        _log.warning("variables without effect", variables=ignored, why="casemate config show tells")
    if url := holder_url(settings.data):
        raise DataDirInUse(settings.data, url)
    for port in settings.listening:
        listen(settings.host, port).close()
    prepare_directory(settings.data)
    # Imported late: loading the whole server takes longer than most other commands run.
    from .service import Service  # noqa: PLC0415

    run_server(lambda: Service(settings).run())
