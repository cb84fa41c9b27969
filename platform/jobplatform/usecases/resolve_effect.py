"""Record the outcome of an effect that holds a job, and read a job's effects."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from jobplatform.domain.jobs import JobView
from jobplatform.errors import EffectNotFound, JobNotFound
from jobplatform.ledger import effects, jobs
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.session import Ledger


def resolve_effect(
    ledger: Ledger,
    hints: HintSender | None,
    tenant_id: UUID,
    job_id: UUID,
    key: str,
    *,
    happened: bool,
    receipt: Any = None,
    by: str,
) -> JobView:
    """Record whether the effect took place. The job runs again, and skips the effect (with `receipt`) or does it.

    Raises `JobNotFound`, or `EffectNotFound` when the job is not held by it.
    """
    with ledger.transaction() as connection:
        verdict, _ = effects.resolve_effect(
            connection, tenant_id, job_id, key, happened=happened, receipt=receipt, data={"by": by}
        )
        if verdict == "gone":
            raise JobNotFound(job_id)
        if verdict != "resolved":
            raise EffectNotFound(job_id, key)
        job = jobs.get_job(connection, tenant_id, job_id)
    assert job is not None, "its row was locked"
    if hints is not None:
        hints.send(job.queue, job.priority)
    return job


def list_effects(ledger: Ledger, tenant_id: UUID, job_id: UUID) -> list[dict[str, Any]]:
    """Return a job's effects in the order in which they were intended. Raises `JobNotFound`."""
    with ledger.statement() as connection:
        if jobs.get_job(connection, tenant_id, job_id) is None:
            raise JobNotFound(job_id)
        return [dict(row._mapping) for row in effects.effects_of(connection, tenant_id, job_id)]
