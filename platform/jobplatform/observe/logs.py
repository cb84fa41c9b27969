"""Logs: a static event name, data as fields, identifiers instead of objects; JSON by default.

Named `logs`, never `logging`: see docs/decisions/0002-platform-folder.md for what a module that hides the standard
library does.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog

#: processors of every record, from structlog and from the standard library
_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def log_formatter(style: str = "json") -> logging.Formatter:
    """Return the formatter of all logs; deploy/granian/logs.json names it too."""
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=lambda value, **_: orjson.dumps(value, default=str).decode())
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *_SHARED],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )


def set_up_logs(level: str = "info", style: str = "json") -> None:
    """Send the records of structlog and the standard library to stderr in one format."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # filtered here at no cost: the standard library's logger would drop records only after rendering
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(log_formatter(style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def get_log(name: str) -> Any:
    """Return a structured logger."""
    return structlog.stdlib.get_logger(name)
