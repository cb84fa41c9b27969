"""Celery's tasks as kinds."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task

from jobplatform.config import settings
from jobplatform.domain.context import Context
from jobplatform.domain.kinds import REGISTRY, Kind
from jobplatform.errors import ConfigurationError
from workers.celery.body import run_body
from workers.celery.routing import queues_of_ledger, usual_queue
from workers.celery.submissions import REFUSED_TASKS, TaskCall

#: Celery's own tasks whose work the ledger does
NOT_NEEDED = frozenset(
    f"celery.{name}" for name in ("backend_cleanup", "chain", "chord", "chord_unlock", "chunks", "group")
)


class Body:
    """The handler of a Celery task: it runs the body as Celery does."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.__module__ = task.__module__
        self.__qualname__ = f"{task.__module__}.{task.name}"

    def __call__(self, payload: TaskCall, ctx: Context) -> Any:
        """Run the task's body in this run's context."""
        return run_body(_in_its_app(self.task, payload), payload, ctx)


def _in_its_app(task: Task, payload: TaskCall) -> Task:
    """Return one of Celery's own tasks (map, say) from the app whose task it calls: every app has its own."""
    inner = payload.kwargs.get("task") if task.name in ("celery.map", "celery.starmap") else None
    app = app_of(str(inner.get("task"))) if isinstance(inner, dict) else None
    its_app: Task = task if app is None else app.tasks.get(task.name, task)
    return its_app


def app_of(name: str) -> Celery | None:
    """Return the app in which a task of this name runs in this process; None if no app has it."""
    handler = REGISTRY.get(name).handler if name in REGISTRY else None
    app: Celery | None = handler.task.app if isinstance(handler, Body) else None
    return app


def register_task(task: Task) -> None:
    """Register a task as a kind, on the queue that the app's routes give it.

    A task whose queue is not switched yet stays with Celery. A task that can't be a kind (because of its name or time
    limit) is refused alone: its calls fail with the reason.
    """
    if task.name in NOT_NEEDED:
        return
    if app_of(task.name) not in (None, task.app):
        return  # a task may be in several apps of a process: it runs in the first one
    queue = usual_queue(task)
    if queue not in queues_of_ledger():
        return
    try:
        REGISTRY.add(make_kind(task, queue))
        REGISTRY.check_queues(settings().pools)
    except ConfigurationError as error:
        REGISTRY.remove(task.name)
        REFUSED_TASKS[task.name] = str(error)
    else:
        REFUSED_TASKS.pop(task.name, None)


def make_kind(task: Task, queue: str) -> Kind:
    """Return the kind of a task. Celery counts its retries itself."""
    soft, hard = task.soft_time_limit, task.time_limit
    return Kind(
        name=task.name,
        queue=queue,
        payload=TaskCall,
        handler=Body(task),
        description=(task.__doc__ or "").strip() if task.__doc__ != Task.__doc__ else "",
        max_attempts=1 if task.max_retries is None else max(0, int(task.max_retries)) + 1,
        # a soft limit that is not below the hard limit has no effect, or Celery refuses the call
        soft_limit_seconds=soft if not (soft and hard and soft >= hard) else None,
        hard_limit_seconds=hard,
        retry_timeouts=False,
        # `@app.task(limit_keys=["provider:openai"])`: a function gets the call's args and kwargs
        limit_keys=getattr(task, "limit_keys", ()),
        limit_units=getattr(task, "limit_units", 1),
        free_name=True,
    )
