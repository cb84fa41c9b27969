"""The current run of this thread, which a task's body changes through Celery's calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from workers.celery.collect import Collector
    from workers.runtime.context import RunContext

_current: ContextVar[BodyRun | None] = ContextVar("run", default=None)


@dataclass(frozen=True)
class RetryRequest:
    """A retry requested by `self.retry`. `next_run`: changed payload or priority of the next run."""

    delay_seconds: float
    next_run: Mapping[str, Any]


@dataclass
class BodyRun:
    """One run of a task's body."""

    context: RunContext
    task_id: str
    tenant_id: UUID
    payload: Mapping[str, Any]
    queue: str
    retry: RetryRequest | None = None
    #: the canvas that it is replaced by
    replacement: tuple[Collector, str] | None = None
    #: the last state that `update_state` has set, and its meta
    state: str | None = None
    meta: Any = None
    #: the results of the tasks that it has called
    children: list[Any] = field(default_factory=list)


def current_run() -> BodyRun | None:
    """Return the run of this thread; None in a process that only calls tasks."""
    return _current.get()


@contextmanager
def running(run: BodyRun) -> Iterator[BodyRun]:
    """Make a run the current one of this thread."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)
