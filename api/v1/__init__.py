"""Version 1 of the API: one module per resource, its requests and answers in `schemas/` under the same name."""

from __future__ import annotations

from flask import Flask

from api.operations import Operation, declared
from api.v1 import (
    artifacts,
    batches,
    catalogue,
    dead_letters,
    events,
    job_control,
    jobs,
    keys,
    limits,
    schedules,
    webhooks,
    workflows,
)

#: in the order of /docs
_RESOURCES = (
    jobs,
    batches,
    job_control,
    events,
    dead_letters,
    workflows,
    schedules,
    artifacts,
    catalogue,
    limits,
    keys,
    webhooks,
)

OPERATIONS: tuple[Operation, ...] = tuple(operation for module in _RESOURCES for operation in declared(module.__name__))


def register(app: Flask) -> None:
    """Add the routes."""
    for operation in OPERATIONS:
        app.add_url_rule(
            "/v1" + operation.path, operation.endpoint.__name__, operation.endpoint, methods=[operation.method]
        )
