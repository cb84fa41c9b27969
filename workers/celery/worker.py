"""What a Celery worker needs to work on the ledger: the platform's own and an existing app's get the same."""

from __future__ import annotations

from celery import Celery, signals

from jobplatform.config import settings
from workers.celery.adopt import adopt_tasks
from workers.celery.routing import check_app
from workers.control import restrict_control
from workers.hardening import harden
from workers.liveness import Liveness
from workers.signals import set_up_logging, set_up_signals


def prepare_worker(app: Celery) -> None:
    """Add the ledger's bootstep, bind all tasks, and give those with another base the ledger's class. Idempotent."""
    app.steps["worker"].add(Liveness)
    harden()
    restrict_control()
    app.finalize()
    adopt_tasks(app)
    check_app(app)
    set_up_signals(app)
    if not signals.setup_logging.receivers:  # an app that sets up its own logging keeps it
        set_up_logging(settings())
