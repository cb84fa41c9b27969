"""`app.control.revoke` and `AsyncResult.revoke`: a cancel in the ledger, which holds with all workers down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jobplatform.errors import JobNotFound, NotCancellable
from jobplatform.usecases.cancel_job import cancel_job
from workers.celery.ids import job_id_of
from workers.celery.tenants import caller_tenant
from workers.process import ledger


def revoke_tasks(task_ids: str | Iterable[str], terminate: bool, reply: bool) -> list[dict[str, Any]] | None:
    """Cancel tasks that have not begun; with `terminate` those that run, too. What has ended, or is not known, stays.

    With `reply` it answers as workers do, in the ledger's name. Raises `LedgerUnavailable`.
    """
    tenant_id = caller_tenant()
    cancelled = []
    for task_id in [task_ids] if isinstance(task_ids, str) else list(task_ids):
        try:
            cancel_job(ledger(), tenant_id, job_id_of(task_id, tenant_id), "revoked", "celery", running=terminate)
            cancelled.append(task_id)
        except (JobNotFound, NotCancellable):
            continue
    return [{"ledger": {"ok": f"tasks {', '.join(cancelled)} flagged as revoked"}}] if reply else None
