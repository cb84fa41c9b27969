"""Change the priority or time of a job that is not running."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from jobplatform.domain.jobs import JobView
from jobplatform.domain.states import State
from jobplatform.errors import JobNotFound, NotChangeable
from jobplatform.ledger import jobs
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.session import Ledger


def change_job(
    ledger: Ledger,
    hints: HintSender | None,
    tenant_id: UUID,
    job_id: UUID,
    *,
    priority: int | None = None,
    run_at: datetime | None = None,
    by: str,
) -> JobView:
    """Change and return the job; None leaves a value as it is.

    A dispatched job is published again, so that the new priority takes effect. Raises `JobNotFound`, or
    `NotChangeable` for a job that runs, needs an operator, or has ended.
    """
    with ledger.transaction() as connection:
        verdict, state = jobs.change_job(
            connection, tenant_id, job_id, priority=priority, run_at=run_at, data={"by": by}
        )
        if verdict == "gone":
            raise JobNotFound(job_id)
        if verdict not in ("changed", "same"):
            raise NotChangeable(job_id, str(state))
        job = jobs.get_job(connection, tenant_id, job_id)
    assert job is not None, "its row was locked"
    if hints is not None and job.state is State.AVAILABLE:
        hints.send(job.queue, job.priority)
    return job
