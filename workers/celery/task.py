"""The task class of existing Celery apps: Celery's own, with the life cycle of an attempt around the body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import celery
from celery.app.trace import build_tracer
from celery.exceptions import Ignore

from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import ConfigurationError
from workers.celery.kinds import register_task
from workers.celery.replace import collect_replacement, prepare_replacement
from workers.celery.routing import is_on_ledger
from workers.runtime.task import LEASE, trace_delivery

Tracer = Callable[..., Any]
LEDGER_REQUEST = "workers.runtime.request:LedgerRequest"


class Task(celery.Task):  # type: ignore[misc]
    """Celery's task on the ledger if its app has the config object, else plain Celery.

    Celery traces the body as usual: hooks, signals, `self.retry`, custom `__call__` and bases. A worker
    claims the run before and settles it afterwards, so the message decides nothing.
    """

    abstract = True
    _body_tracer: Tracer | None = None

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Register the task as a kind, and disable settings that would let Celery decide."""
        super().on_bound(app)
        bind_to_ledger(cls, app)

    @property
    def __trace__(self) -> Tracer:
        """What a worker calls for a delivery."""
        return self._trace_delivery

    @__trace__.setter
    def __trace__(self, tracer: Tracer) -> None:
        """Keep the tracer that Celery builds when a worker starts: it runs the body."""
        self._body_tracer = tracer

    def trace_body(self, task_id: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Any:
        """Run the body as Celery does; returns its (retval, info, runtime, retstr)."""
        if self._body_tracer is None:
            self._body_tracer = build_tracer(self.name, self, self.app.loader, app=self.app)
        return self._body_tracer(task_id, args, kwargs, request)

    def _trace_delivery(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        """Run one delivery from claim to settle, and report the outcome to Celery."""
        if LEASE not in (request or {}):
            return self.trace_body(uuid, args, kwargs, request)
        return trace_delivery(REGISTRY.get(self.name), uuid, request)

    def replace(self, sig: Any) -> Any:
        """Replace this task by a canvas, which provides its result; successors wait for the canvas."""
        if not self._is_in_run():
            return super().replace(sig)
        prepared = prepare_replacement(self, sig)
        return self.on_replace(prepared)

    def on_replace(self, sig: Any) -> Any:
        """Collect the canvas; it is written only when this run is settled."""
        if not self._is_in_run():
            return super().on_replace(sig)
        collect_replacement(self, sig)
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """See Celery. A chord on the ledger accepts no more tasks."""
        if not self._is_in_run():
            return super().add_to_chord(sig, lazy)
        raise NotImplementedError(
            "add_to_chord: a chord stands in the ledger when it is called, and takes no more tasks: let the task "
            "replace itself by a group instead"
        )

    def _is_in_run(self) -> bool:
        request = self.request
        return not request.is_eager and not request.called_directly and is_on_ledger(self.app)


def bind_to_ledger(cls: Any, app: Any) -> None:
    """Give a task's class the ledger's behaviour in an app that is on the ledger, and register the task as a kind.

    Raises `ConfigurationError`.
    """
    task = app._tasks.get(cls.name)
    if task is None or not is_on_ledger(app):  # a base class of tasks is no task itself
        return
    if cls.Request not in (celery.Task.Request, LEDGER_REQUEST):
        raise ConfigurationError(
            f"task {cls.name!r} has a Request class of its own ({cls.Request}): it has no equal here"
        )
    cls.Request = LEDGER_REQUEST
    cls.acks_late, cls.reject_on_worker_lost = True, False
    cls.acks_on_failure = cls.acks_on_timeout = True
    cls.rate_limit = None
    register_task(task)
