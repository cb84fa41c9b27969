"""Set a Celery worker up for the ledger, the platform's own and an existing app's alike."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from jobplatform.config import settings
from jobplatform.observe.logs import get_log
from workers.celery.adopt import adopt_tasks
from workers.celery.routing import check_app
from workers.celery.submissions import REFUSED_TASKS
from workers.control import restrict_control
from workers.liveness.bootstep import Liveness
from workers.runtime.hardening import harden
from workers.runtime.signals import set_up_logging, set_up_signals

log = get_log(__name__)


def prepare_worker(app: Celery) -> None:
    """Add the ledger's bootstep, bind all tasks, and give those with a custom base the ledger's class. Idempotent."""
    app.steps["worker"].add(Liveness)
    harden()
    restrict_control()
    app.finalize()
    adopt_tasks(app)
    check_app(app)
    set_up_signals(app)
    if not signals.setup_logging.receivers:  # an app that sets up its own logging keeps it
        set_up_logging(settings())
    signals.worker_ready.connect(_log_refused_tasks, dispatch_uid="jobplatform")


def _log_refused_tasks(**_: Any) -> None:
    for task, reason in REFUSED_TASKS.items():
        log.error("task_refused", task=task, reason=reason)
