"""The task that calls a failed task's errbacks. Its job is created in the transaction that ends the failed task.

So errbacks are called however the task ended, by a crash or a lost worker too, and no failure in between can lose them.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, _state
from celery.app.task import Context

from workers.celery.kinds import app_of
from workers.celery.routing import is_on_ledger
from workers.celery.run import current_run
from workers.celery.submissions import ERRBACKS
from workers.celery.values import from_json


def add_errbacks_task(app: Celery) -> None:
    """Add the task to an app when it is finalized."""
    if not is_on_ledger(app):
        return

    @app.task(name=ERRBACKS, bind=True, max_retries=2, ignore_result=True, shared=False, lazy=False)  # type: ignore[untyped-decorator]
    def call_errbacks(self: Any) -> None:
        run = current_run()
        assert run is not None, "only a worker runs this task"
        headers = run.payload["headers"]
        failed = str(headers["failed"])
        meta = app.backend.get_task_meta(failed, cache=False)
        own = app_of(str(meta.get("name"))) or app
        request = Context(
            id=meta["task_id"],
            task=meta.get("name"),
            args=meta.get("args") or [],
            kwargs=meta.get("kwargs") or {},
            errbacks=from_json(headers["errbacks"]),
            root_id=headers.get("root_id"),
            delivery_info={},
            retries=meta.get("retries", 0),
        )
        # Celery's own code: errbacks with one parameter are sent as tasks, those with three are called here
        own.backend._call_task_errbacks(request, meta["result"], meta.get("traceback"))


_state.connect_on_app_finalize(add_errbacks_task)
