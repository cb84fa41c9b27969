"""Replay a job that is dead, cancelled or expired: same id, history kept."""

from __future__ import annotations

from uuid import UUID

from jobplatform.domain.jobs import JobView
from jobplatform.errors import JobNotFound, NotReplayable, StepNotReplayable
from jobplatform.ledger import dead_letters, jobs
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.session import Ledger


def replay_job(
    ledger: Ledger, hints: HintSender | None, tenant_id: UUID, job_id: UUID, *, by: str, reason: str | None = None
) -> JobView:
    """Make the job available again and return it. Its attempts start from zero; `run_no` keeps increasing.

    Of two concurrent replays one succeeds. Raises `JobNotFound`, or `NotReplayable` for a job that waits, runs, or has
    ended in any other way (succeeded, discarded).
    """
    with ledger.transaction() as connection:
        verdict, state = dead_letters.replay_job(connection, tenant_id, job_id, 0.0, {"by": by, "reason": reason})
        if verdict == "gone":
            raise JobNotFound(job_id)
        if verdict == "workflow":
            raise StepNotReplayable(job_id, str(state))
        if verdict != "replayed":
            raise NotReplayable(job_id, str(state))
        job = jobs.get_job(connection, tenant_id, job_id)
    assert job is not None, "its row was locked"
    if hints is not None:
        hints.send(job.queue, job.priority)
    return job
