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
from jobplatform.domain.kinds import REGISTRY, Kind, is_free_name
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

        return run_body(_in_its_app(self.task, payload), payload, ctx)


def _in_its_app(task: Task, payload: TaskCall) -> Task:
    """Return one of Celery's own tasks (map, say) as it is in the app whose task it calls: every app has its own."""
    inner = payload.kwargs.get("task") if task.name in ("celery.map", "celery.starmap") else None
    name = str(inner.get("task")) if isinstance(inner, dict) else ""
    handler = REGISTRY.get(name).handler if name in REGISTRY else None
    found: Task = handler.task.app.tasks.get(task.name, task) if isinstance(handler, Body) else task
    return found


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
    known = REGISTRY.get(task.name).handler if task.name in REGISTRY else None
    if isinstance(known, Body) and known.task.app is not task.app:
        return  # a task is in every app of a process: it runs in the one that was there first
    queue = usual_queue(task)
    if queue in queues_of_ledger():
        kind = make_kind(task, queue)
        REGISTRY.add(kind)
        REGISTRY.check_queues(settings().pools)


def make_kind(task: Task, queue: str) -> Kind:
    """Return the kind of a task. Celery counts its retries itself, in its own words."""
    soft, hard = task.soft_time_limit, task.time_limit
    return Kind(
        name=task.name,
        queue=queue,
        payload=TaskCall,
        handler=Body(task),
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


def route(
    app: Any, name: str, options: dict[str, Any], task: Task | None, args: Any = None, kwargs: Any = None
) -> tuple[str, dict[str, Any]]:
    """Return the queue that Celery's routes lead to, and the options with what the routes say of priority.

    Raises `ConfigurationError` where they lead to no queue.
    """
    if options.get("exchange"):
        raise ConfigurationError(
            f"task {name!r} is to go to exchange {options['exchange']!r}: expected a queue. On the ledger a queue's "
            f"name is all there is to routing: name one in task_routes, or in the call"
        )
    try:
        routed = app.amqp.router.route(dict(options), name, args, kwargs, task)
    except QueueNotFound as error:
        raise ConfigurationError(f"task {name!r}: {error}. {how_to_add_a_queue()}") from None
    queue = routed.pop("queue")
    told = {key: routed[key] for key in ("priority", "expires") if routed.get(key) is not None}
    return str(getattr(queue, "name", queue)), {**told, **options}


def usual_queue(task: Task) -> str:
    """Return the queue of a task's calls that name none. A router that wants arguments has none to look at here."""
    asked = {} if (own := getattr(task, "queue", None)) is None else {"queue": own}
    try:
        return route(task.app, task.name, asked, task, (), {})[0]
    except ConfigurationError:
        raise
    except Exception:
        return str(own or task.app.conf.task_default_queue)


def check_app(app: Any) -> None:
    """Refuse an app whose results or messages go elsewhere, though it has the config object.

    Raises `ConfigurationError`. What is given to `Celery(…)`, or stands in Celery's own environment variables, comes
    before the config object.
    """
    from workers.backend import LedgerBackend
    from workers.celery import config

    where = f"app {app.main!r} has the config object of the ledger"
    if not isinstance(app.backend, LedgerBackend):
        raise ConfigurationError(
            f"{where}, and another result_backend: take `backend=…` out of Celery(…), and CELERY_RESULT_BACKEND out "
            f"of the environment"
        )
    if app.conf.broker_read_url != config.broker_url:
        raise ConfigurationError(
            f"{where}, and another broker: take `broker=…` out of Celery(…), and CELERY_BROKER_URL out of the "
            f"environment; JOBPLATFORM_BROKER_URL names it"
        )


def kind_of_call(call: Call) -> Kind:
    """Return what a call is, on the queue that it goes to; of a task that is known to workers only, what is usual."""
    if not is_free_name(call.name):
        raise ConfigurationError(
            f"task {call.name!r}: expected a name of letters, digits, _ - and dots, but not 'marker'"
        )
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
