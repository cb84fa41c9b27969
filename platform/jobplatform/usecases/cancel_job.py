"""Cancel a job: at once, or, while it runs, after its handler was notified and a grace period has passed."""

from __future__ import annotations

from uuid import UUID

from jobplatform.domain.jobs import JobView
from jobplatform.errors import JobNotFound, NotCancellable
from jobplatform.ledger import jobs
from jobplatform.ledger.session import Ledger


def cancel_job(
    ledger: Ledger,
    tenant_id: UUID,
    job_id: UUID,
    reason: str | None = None,
    by: str | None = None,
    *,
    running: bool = True,
    signal: str | None = None,
) -> JobView:
    """Cancel a job and return it. Idempotent; `running=False` leaves a running job alone.

    `signal`: sent at once to the process of a run on a prefork pool ("SIGTERM"), instead of the grace period.

    If the job succeeds meanwhile, the first commit wins. Raises `JobNotFound`, or `NotCancellable` for a job that has
    ended.
    """
    with ledger.transaction() as connection:
        verdict, state = jobs.cancel_job(connection, tenant_id, job_id, reason, by, running, signal)
        if verdict == "gone":
            raise JobNotFound(job_id)
        if verdict == "ended" and state != "cancelled":
            raise NotCancellable(job_id, str(state))
        job = jobs.get_job(connection, tenant_id, job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job
