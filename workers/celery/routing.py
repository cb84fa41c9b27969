"""Routing of tasks: which apps and queues are on the ledger, and the queue that Celery's routes give a call."""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.exceptions import QueueNotFound

from jobplatform.config import settings
from jobplatform.errors import ConfigurationError


def is_on_ledger(app: Any) -> bool:
    """Return whether an app has the ledger's config object; otherwise it is plain Celery."""
    return bool(app.conf.worker_consumer == "workers.runtime.consumer:LedgerConsumer")


def check_app(app: Any) -> None:
    """Refuse an app with the config object whose results or messages go elsewhere.

    Raises `ConfigurationError`. Arguments of `Celery(…)` and Celery's own environment variables take precedence over
    the config object.
    """
    from workers.celery import config
    from workers.celery.backend import LedgerBackend

    where = f"app {app.main!r} has the config object of the ledger"
    if not isinstance(app.backend, LedgerBackend):
        raise ConfigurationError(
            f"{where}, and another result_backend: take `backend=…` out of Celery(…), result_backend out of "
            f"app.conf.update(…), and CELERY_RESULT_BACKEND out of the environment"
        )
    if app.conf.broker_read_url != config.broker_url:
        raise ConfigurationError(
            f"{where}, and another broker: take `broker=…` out of Celery(…), broker_url out of app.conf.update(…), and "
            f"CELERY_BROKER_URL out of the environment; JOBPLATFORM_BROKER_URL names it"
        )


def queues_of_ledger() -> frozenset[str]:
    """Return the queues whose tasks go through the ledger: all, or those that are switched already."""
    config = settings()
    return frozenset(config.celery_queues or config.queues)


def how_to_add_a_queue() -> str:
    """Return instructions for a queue that is not on the ledger."""
    return (
        f"Expected one of {', '.join(sorted(queues_of_ledger()))}. Add it to JOBPLATFORM_QUEUES (and to "
        f"JOBPLATFORM_CELERY_QUEUES where that is set), route the task elsewhere, or set "
        f"JOBPLATFORM_CELERY_OLD_BROKER_URL to leave the queue to Celery"
    )


def route(
    app: Any, name: str, options: dict[str, Any], task: Task | None, args: Any = None, kwargs: Any = None
) -> tuple[str, dict[str, Any]]:
    """Return the queue that Celery's routes lead to, and the options with priority and expiry from the routes.

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
    chosen = {key: routed[key] for key in ("priority", "expires") if routed.get(key) is not None}
    return str(getattr(queue, "name", queue)), {**chosen, **options}


def usual_queue(task: Task) -> str:
    """Return the queue of a task's calls that name none. A router that reads arguments gets none here."""
    asked = {} if (own := getattr(task, "queue", None)) is None else {"queue": own}
    try:
        return route(task.app, task.name, asked, task, (), {})[0]
    except ConfigurationError:
        raise
    except Exception:
        return str(own or task.app.conf.task_default_queue)
