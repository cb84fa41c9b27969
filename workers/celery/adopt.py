"""Give tasks with a custom base the ledger's class, when their app is finalized and when a worker starts."""

from __future__ import annotations

import celery
from celery import Celery, _state

from workers.celery.routing import is_on_ledger
from workers.celery.task import Task, bind_to_ledger
from workers.runtime.task import LedgerTask


def adopt_tasks(app: Celery) -> None:
    """Give every task the ledger's class in addition to its own base, and register it as a kind."""
    for task in list(app.tasks.values()):
        if isinstance(task, LedgerTask):
            continue
        if not isinstance(task, Task):
            own: type[celery.Task] = type(task)
            task.__class__ = type(own.__name__, (own, Task), {"__module__": own.__module__, "__doc__": own.__doc__})
        bind_to_ledger(type(task), app)  # a base's own on_bound need not call ours


def _adopt_when_finalized(app: Celery) -> None:
    if is_on_ledger(app):
        app.on_after_finalize.connect(lambda **_: adopt_tasks(app), weak=False)


def watch_apps() -> None:
    """Adopt the tasks of every app on the ledger that is finalized from now on."""
    _state.connect_on_app_finalize(_adopt_when_finalized)
