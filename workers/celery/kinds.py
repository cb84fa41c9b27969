"""Celery's tasks as kinds of job, and a call of one as an order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from celery import Task
from celery.exceptions import QueueNotFound
from pydantic import BaseModel, ConfigDict, Field

from jobplatform.config import settings
from jobplatform.domain.context import Context
from jobplatform.domain.kinds import REGISTRY, Kind
from jobplatform.errors import ConfigurationError
from workers.celery.call import Call, in_seconds

#: the kind of the job that calls a failed task's errbacks
ERRBACKS = "celery.errbacks"
#: Celery's own tasks that would do in a worker what the ledger does
NOT_NEEDED = frozenset(
    f"celery.{name}" for name in ("backend_cleanup", "chain", "chord", "chord_unlock", "chunks", "group")
)
#: of calls whose task this process does not know; they are a dead letter where no worker does
UNKNOWN_ATTEMPTS = 1


class TaskCall(BaseModel):
    """The payload of a Celery task: its arguments, and headers that its request has."""

    model_config = ConfigDict(extra="forbid")

    args: list[Any] = Field(default_factory=list, description="positional arguments")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")
    headers: dict[str, Any] = Field(default_factory=dict, description="Celery's own; leave it out")


class Body:
    """The handler of a Celery task: runs its body as Celery does."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.__module__ = task.__module__
        self.__qualname__ = f"{task.__module__}.{task.name}"

    def __call__(self, payload: TaskCall, ctx: Context) -> Any:
        """Run it in this run's context."""
        from workers.celery.body import run_body

        return run_body(self.task, payload, ctx)


def is_on_ledger(app: Any) -> bool:
    """Return whether an app has the config object: else it is plain Celery."""
    return bool(app.conf.worker_consumer == "workers.consumer:LedgerConsumer")


def queues_of_ledger() -> frozenset[str]:
    """Return the queues whose tasks go through the ledger: all, or those that are switched already."""
    config = settings()
    return frozenset(config.celery_queues or config.queues)


def register_task(task: Task) -> None:
    """Make a task a kind, on the queue that the app's routes have for it.

    One that goes to a queue which is not switched yet stays Celery's. Raises `ConfigurationError`.
    """
    if task.name in NOT_NEEDED:
        return
    queue = queue_of(task.app, task.name, {"queue": getattr(task, "queue", None)}, task)
    if queue in queues_of_ledger():
        kind = make_kind(task, queue)
        REGISTRY.add(kind)
        REGISTRY.check_queues(settings().pools)


def make_kind(task: Task, queue: str) -> Kind:
    """Return the kind of a task. Celery counts its retries itself, in its own words."""
    known = REGISTRY.get(task.name) if task.name in REGISTRY else None
    soft, hard = task.soft_time_limit, task.time_limit
    return Kind(
        name=task.name,
        queue=queue,
        payload=TaskCall,
        # the task of a second app in this process, by the same name: the built-in ones are in every app
        handler=known.handler if known is not None and task.name.startswith("celery.") else Body(task),
        description=(task.__doc__ or "").strip() if task.__doc__ != Task.__doc__ else "",
        max_attempts=1 if task.max_retries is None else max(0, int(task.max_retries)) + 1,
        # one that is not below the hard one has no effect, or Celery refuses the call
        soft_limit_seconds=soft if not (soft and hard and soft >= hard) else None,
        hard_limit_seconds=hard,
        retry_timeouts=False,
        free_name=True,
    )


def how_to_add_a_queue() -> str:
    """Say what to do about a queue that is not on the ledger."""
    return (
        f"Expected one of {', '.join(sorted(queues_of_ledger()))}. Add it to JOBPLATFORM_QUEUES (and to "
        f"JOBPLATFORM_CELERY_QUEUES where that is set), route the task elsewhere, or set "
        f"JOBPLATFORM_CELERY_OLD_BROKER_URL to leave the queue to Celery"
    )


def queue_of(
    app: Any, name: str, options: dict[str, Any], task: Task | None, args: Any = None, kwargs: Any = None
) -> str:
    """Return the name of the queue that Celery's routes lead to; `options` may name one.

    Raises `ConfigurationError` where they lead to an exchange.
    """
    asked = {key: options[key] for key in ("queue", "exchange", "routing_key") if options.get(key) is not None}
    try:
        routed = app.amqp.router.route(dict(asked), name, args, kwargs, task)
    except QueueNotFound as error:
        raise ConfigurationError(f"task {name!r}: {error}. {how_to_add_a_queue()}") from None
    queue = routed.get("queue")
    if queue is None:
        raise ConfigurationError(
            f"task {name!r} is routed to exchange {routed.get('exchange')!r}: expected a queue. On the ledger a "
            f"queue's name is all there is to routing: name one in task_routes, or in the call"
        )
    return str(getattr(queue, "name", queue))


def kind_of_call(call: Call) -> Kind:
    """Return what a call is, on the queue that it goes to; of a task that is known to workers only, what is usual."""
    if call.name in REGISTRY:
        return replace(REGISTRY.get(call.name), queue=call.queue)
    return Kind(
        name=call.name,
        queue=call.queue,
        payload=TaskCall,
        handler=lambda payload, ctx: None,
        max_attempts=UNKNOWN_ATTEMPTS,
        free_name=True,
    )


def order_of(call: Call, kind: Kind, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job of a step as the ledger takes it."""
    now = datetime.now(UTC)
    first = not call.after
    return {
        "queue": call.queue,
        "kind": call.name,
        "priority": call.priority,
        "payload": payload if kind.payload is TaskCall else payload["kwargs"],
        "tags": [],
        "max_attempts": kind.max_attempts,
        "crash_limit": kind.crash_limit,
        "lost_limit": kind.lost_limit,
        "run_at": call.run_at or (in_seconds(call.delay_seconds, now) if first else None),
        "start_by": call.start_by or (in_seconds(call.start_within_seconds, now) if first else None),
    }
