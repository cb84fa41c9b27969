"""Read jobs and their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jobplatform.domain.access import Scope
from jobplatform.domain.jobs import JobView
from jobplatform.domain.states import State
from jobplatform.errors import JobNotFound
from jobplatform.ledger import artifacts, jobs, keys, runs
from jobplatform.ledger.ids import lowest_id_at
from jobplatform.ledger.session import Ledger


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; None is "any"."""

    state: State | None = None
    kind: str | None = None
    queue: str | None = None
    tag: str | None = None
    error_code: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def get_job(ledger: Ledger, tenant_id: UUID, job_id: UUID) -> JobView:
    """Return one job. Raises `JobNotFound`, also for another tenant's job."""
    with ledger.statement() as connection:
        job = jobs.get_job(connection, tenant_id, job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job


def get_plain_jobs(ledger: Ledger, wanted: Sequence[tuple[str, UUID]]) -> list[JobView | None]:
    """Return the jobs of pairs of API key and id, all in one statement.

    None where the request has to be answered by `admit` and `get_job`: a key that is not valid, lacks the scope to read
    or has a rate limit; a job that its tenant does not have.
    """
    with ledger.statement() as connection:
        return jobs.get_plain_jobs(connection, [(keys.hash_key(key), job_id) for key, job_id in wanted], Scope.READ)


def list_jobs(
    ledger: Ledger, tenant_id: UUID, wanted: JobFilter, *, cursor: UUID | None, limit: int
) -> tuple[Sequence[JobView], UUID | None]:
    """Return a page of jobs, newest first, and the cursor of the next; see `ledger.jobs.list_jobs`."""
    below = lowest_id_at(wanted.created_before) if wanted.created_before else None
    if cursor is not None and (below is None or cursor < below):
        below = cursor
    with ledger.statement() as connection:
        return jobs.list_jobs(
            connection,
            tenant_id,
            below=below,
            above=lowest_id_at(wanted.created_after) if wanted.created_after else None,
            limit=limit,
            state=wanted.state,
            kind=wanted.kind,
            queue=wanted.queue,
            tag=wanted.tag,
            error_code=wanted.error_code,
        )


def list_runs(ledger: Ledger, tenant_id: UUID, job_id: UUID) -> list[dict[str, Any]]:
    """Return a job's runs in order. Raises `JobNotFound`."""
    get_job(ledger, tenant_id, job_id)
    with ledger.statement() as connection:
        return [dict(row._mapping) for row in runs.runs_of(connection, tenant_id, job_id)]


def list_events(ledger: Ledger, tenant_id: UUID, job_id: UUID, after: int, limit: int) -> list[dict[str, Any]]:
    """Return a job's events in order, after event `after`. Raises `JobNotFound`."""
    get_job(ledger, tenant_id, job_id)
    with ledger.statement() as connection:
        return [dict(row._mapping) for row in runs.events_of(connection, tenant_id, job_id, after, limit)]


def list_artifacts(ledger: Ledger, tenant_id: UUID, job_id: UUID) -> list[dict[str, Any]]:
    """Return a job's artifacts. Raises `JobNotFound`."""
    get_job(ledger, tenant_id, job_id)
    with ledger.statement() as connection:
        return [dict(row._mapping) for row in artifacts.artifacts_of(connection, tenant_id, job_id)]


def find_settled(ledger: Ledger, job_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these jobs and workflows have ended, or wait for an operator."""
    with ledger.statement() as connection:
        return set(job_ids) - jobs.unfinished(connection, job_ids)


def find_job(ledger: Ledger, job_id: UUID) -> JobView | None:
    """Return a job of any tenant, for the platform's own processes; None when there is no such id."""
    with ledger.statement() as connection:
        return jobs.find_job(connection, job_id)
