"""Call a job off: at once, and for good, unless it runs; a running one is told, and killed after a grace."""

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
    """Cancel and return the job as it is then. Cancelling twice changes nothing; `running=False` leaves one that runs.

    `signal`: sent to the process of a run on a prefork pool at once ("SIGTERM"), in place of the grace.

    Against a success the first commit wins. Raises `JobNotFound`, or `NotCancellable` for what has ended otherwise.
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
