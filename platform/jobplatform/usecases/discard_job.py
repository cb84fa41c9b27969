"""Discard a dead letter: final, and kept in the history with the reason."""

from __future__ import annotations

from uuid import UUID

from jobplatform.domain.jobs import JobView
from jobplatform.errors import JobNotFound, NotDiscardable
from jobplatform.ledger import dead_letters, jobs
from jobplatform.ledger.session import Ledger


def discard_job(ledger: Ledger, tenant_id: UUID, job_id: UUID, reason: str, *, by: str) -> JobView:
    """Discard a dead or held job, and return it. Idempotent.

    Raises `JobNotFound`, or `NotDiscardable` for one that is neither.
    """
    with ledger.transaction() as connection:
        data = {"by": by, "reason": reason}
        verdict, state = dead_letters.discard_job(connection, tenant_id, job_id, reason, data)
        if verdict == "gone":
            raise JobNotFound(job_id)
        if verdict != "discarded" and state != "discarded":
            raise NotDiscardable(job_id, str(state))
        job = jobs.get_job(connection, tenant_id, job_id)
    assert job is not None, "it stands in history"
    return job
