"""`self.replace(canvas)`: the run adds the canvas as steps, and the last of them provides the task's result."""

from __future__ import annotations

from typing import Any

from celery.canvas import _chain, group
from celery.exceptions import ImproperlyConfigured

from jobplatform.errors import Permanent
from workers.celery.collect import Collector
from workers.celery.flow import plan_calls
from workers.celery.run import BodyRun, current_run
from workers.runtime.process import ledger


def prepare_replacement(task: Any, sig: Any) -> Any:
    """Return the canvas that replaces a task, as Celery prepares it. Raises `ImproperlyConfigured`, as Celery does."""
    if "chord" in sig.options:
        raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
    if isinstance(sig, _chain) and not getattr(sig, "tasks", True):
        raise ImproperlyConfigured("Cannot replace with an empty chain")
    if isinstance(sig, group):
        # as in Celery: one task collects the results of a group
        sig |= task.app.tasks["celery.accumulate"].s(index=0)
    request = task.request
    nesting = (request.replaced_task_nesting or 0) + 1
    return sig.set(root_id=request.root_id, parent_id=request.id, replaced_task_nesting=nesting)


def collect_replacement(task: Any, sig: Any) -> None:
    """Collect what the canvas calls; it is written when the run is settled. Raises `ImproperlyConfigured`."""
    run = current_run()
    assert run is not None, "a body is traced inside a run"
    collector = Collector(task.app)
    result = collector.run(sig.apply_async)
    if not collector.calls:
        raise ImproperlyConfigured("Cannot replace with an empty canvas")
    run.replacement = (collector, result.id)


def add_replacement(run: BodyRun) -> None:
    """Add the collected canvas to the run: its settlement writes the steps."""
    assert run.replacement is not None
    collector, last = run.replacement
    app, added = collector.app, run.context.added
    name, job_id = added.own_name(ledger()), run.context.job_id
    if last not in collector.calls and last not in collector.groups:
        raise Permanent(f"the canvas that replaces it has no result of its own ({last})", code="invalid_replacement")
    flow = plan_calls(app, collector, run.tenant_id, f"{name}/", (last, job_id))
    added.add_planned(ledger(), flow.steps, flow.pending, result_of=flow.ids[last])
