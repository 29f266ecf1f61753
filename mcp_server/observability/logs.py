"""Logging: structlog for our own events and for those of the libraries, as JSON or for people. Never a secret.

Keys arrive in two headers and are never bound to an event; what a library logs by itself is cut to a safe length.
"""

from __future__ import annotations

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
    "pymongo": "INFO",  # below that it logs whole commands, documents included
}


def configure(level: Literal["debug", "info", "warning", "error"], form: Literal["auto", "console", "json"]) -> None:
    """Send every log event to standard error in one form.

    Args:
        level: The least level that is shown.
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
                # The fuller ones show the values of variables, keys among them.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        # First what the level drops, before anything is done to it.
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
    # What no form shows need not be looked up for each line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(logging.getLevelNamesMapping()[least], root.level))
    logging.getLogger("uvicorn.error").addFilter(_no_quirk)


def _no_quirk(record: logging.LogRecord) -> bool:
    # Uvicorn says it of every handshake that was refused in good order.
    return record.msg != "ASGI callable returned without completing handshake."


def _bounded(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut what is too long to be read, such as a header that somebody made up."""
    return {
        name: f"{value[:_LONGEST]}…" if isinstance(value, str) and len(value) > _LONGEST else value
        for name, value in event.items()
    }
