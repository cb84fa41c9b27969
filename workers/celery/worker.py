"""What a Celery worker needs to work on the ledger: the platform's own and an existing app's get the same."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals
from celery import Task as CeleryTask

from jobplatform.config import settings
from workers.celery.task import Task
from workers.hardening import harden
from workers.liveness import Liveness
from workers.signals import set_up_logging, set_up_signals
from workers.task import LedgerTask


def prepare_worker(app: Celery) -> None:
    """Add the ledger's bootstep, bind all tasks, and give those with another base the ledger's class. Idempotent."""
    app.steps["worker"].add(Liveness)
    harden()
    app.finalize()
    adopt_tasks(app)
    set_up_signals(app)
    if not signals.setup_logging.receivers:  # an app that sets up its own logging keeps it
        set_up_logging(settings())


def adopt_tasks(app: Celery) -> None:
    """Give every task the ledger's class: one that was made with a base of its own keeps that too."""
    for task in list(app.tasks.values()):
        if not isinstance(task, Task | LedgerTask):
            adopt_task(task)


def adopt_task(task: Any) -> None:
    """Put the ledger's class in front of a task's own."""
    own: type[CeleryTask] = type(task)
    task.__class__ = type(own.__name__, (Task, own), {"__module__": own.__module__, "__doc__": own.__doc__})
    type(task).bind(task.app)
