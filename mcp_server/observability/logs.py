"""Logging: structlog for our own events and those of libraries, as JSON or for the console, without secrets.

API keys arrive in two headers and are never bound to an event; values in log events are truncated.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Literal

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_LONGEST = 2_000
_QUIET = {
    "uvicorn.error": "WARNING",
    "uvicorn.access": "ERROR",
    "mcp": "WARNING",
    "httpx2": "WARNING",
    "asyncio": "WARNING",
    "python_multipart": "ERROR",  # the answer says what is wrong with a form
    "pymongo": "INFO",  # at DEBUG it logs whole commands, including documents
}

_NO_ERRORS = frozenset(f"ASGI callable returned without completing {what}." for what in ("handshake", "response"))


def configure(level: Literal["debug", "info", "warning", "error"], form: Literal["auto", "console", "json"]) -> None:
    """Configure logging to standard error.

    Args:
        level: The lowest level that is logged.
        form: `json`, `console`, or `auto` for console on a terminal and JSON elsewhere.
    """
    people = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        _bounded,
    ]
    last: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The richer formatters show the values of variables, including keys.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        # Filter by level first, before any work is done on an event.
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:3],
            _bounded,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # Neither format shows these, so looking them up for each line would be wasted.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(logging.getLevelNamesMapping()[least], root.level))
    logging.getLogger("uvicorn.error").addFilter(ordinary)


def ordinary(record: logging.LogRecord) -> bool:
    """Tell whether a record of the web server's is more than what it logs as an error and is none.

    WebSockets are refused on purpose, and answers of sandboxes may break off or last until the server stops.
    """
    ended = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not ended and record.msg not in _NO_ERRORS


def _bounded(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Truncate values that are too long to read, such as a made-up header."""
    return {
        name: f"{value[:_LONGEST]}…" if isinstance(value, str) and len(value) > _LONGEST else value
        for name, value in event.items()
    }
