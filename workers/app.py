"""The platform's Celery app. Celery provides the pool, the consumer loop and Flower; the ledger decides what runs.

celery -A workers.app worker -Q email --pool threads -c 8
"""

from __future__ import annotations

from jobplatform.extras import require

require("worker")

from celery import Celery

from jobplatform.config import settings
from jobplatform.domain.kinds import load_kinds
from jobplatform.observe.metrics import share_between_processes
from workers.celery.kinds import Body
from workers.celery.worker import prepare_worker
from workers.handlers import maintenance, webhooks
from workers.runtime.task import LedgerTask, TracedByKind

_settings = settings()
if _settings.metrics_port:
    share_between_processes()  # children of the prefork pool count too

app = Celery("jobplatform", task_cls=LedgerTask)
app.config_from_object("workers.celery.config")
kinds = load_kinds(_settings.kind_modules, _settings.pools)
maintenance.register(kinds, _settings)
webhooks.register(kinds, _settings)


def _register_kinds() -> None:
    """Register one Celery task per kind under the kind's name, so that Flower shows kinds."""
    app.finalize()
    for kind in kinds:
        task_class = TracedByKind if isinstance(kind.handler, Body) else LedgerTask
        app.tasks.pop(kind.name, None)  # one of Celery's own (map, say), which is another app's task here
        app.register_task(task_class.for_kind(kind))


_register_kinds()
# apps whose tasks are kinds may have become the current app
app.set_default()
app.set_current()
prepare_worker(app)
