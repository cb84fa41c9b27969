"""Queries on runs: claim, progress, settle, and the history of a job's runs and events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

from jobplatform.domain.states import Event
from jobplatform.ledger.jobs import earliest_end
from jobplatform.ledger.session import Ledger


class Claimed(NamedTuple):
    """Result of `claim_run.sql`; only the verdict if there is nothing to run."""

    verdict: Literal["claimed", "mine", "gone", "stale"]
    tenant_id: Any
    payload: Any
    run_no: int
    attempt: int
    max_attempts: int
    #: has neither workflow nor limit keys
    is_plain: bool


def claim_run(
    ledger: Ledger, *, job_id: UUID, dispatch_no: int, kind: str, lease_id: UUID, worker_id: UUID, node: str
) -> Claimed:
    """Call `claim_run.sql`: one transaction."""
    (row,) = ledger.call("claim_run", job_id, dispatch_no, kind, lease_id, worker_id, node)
    return Claimed(*row)


@dataclass(frozen=True)
class Settlement:
    """How a run ended, and the next state of its job. `state` is ignored for crashed and lost runs."""

    outcome: str
    state: str | None = None
    delay_seconds: float = 0.0
    #: no attempt starts later than this after the job was accepted, by the database's clock
    max_age_seconds: float | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    #: steps that a success adds to its workflow, as JSON (usecases/add_steps.py)
    added: bytes | None = None
    #: changes for the next run: payload, priority or both
    next_run: Any = None


class Refusals(NamedTuple):
    """How often workers have refused a job's unknown kind, and for how long (s)."""

    times: int
    seconds: float


_REFUSALS = text(
    """
    SELECT count(*)::integer AS times,
           coalesce(extract(epoch FROM clock_timestamp() - min(started_at)), 0)::double precision AS seconds
    FROM job_runs WHERE job_id = :job_id AND finished_at >= :since AND error ->> 'code' = 'unknown_kind'
    """
)


def refusals_of(connection: Connection, job_id: UUID) -> Refusals:
    """Return how often, and since when, workers have refused the job because they do not know its kind."""
    row = connection.execute(_REFUSALS, {"job_id": job_id, "since": earliest_end(job_id)}).one()
    return Refusals(row.times, row.seconds)


class Settled(NamedTuple):
    """Result of `settle_run.sql`.

    `woken`: "queue priority,…" of queues that got jobs; `freed`: slots of limit keys were returned.
    """

    verdict: Literal["settled", "already", "lost"]
    state: str | None
    woken: str | None
    freed: bool


def settle_run(ledger: Ledger, job_id: UUID, lease_id: UUID, settlement: Settlement) -> Settled:
    """Call `settle_run.sql`, one transaction."""
    (row,) = ledger.call("settle_run", job_id, lease_id, *_values(settlement))
    return Settled(*row)


_SETTLE = text(
    """
    SELECT verdict, state FROM settle_run(
        :job_id, :lease_id, :outcome, :state, :delay, CAST(:result AS json), CAST(:error AS jsonb),
        CAST(:usage AS jsonb), :max_age, CAST(:added AS json), CAST(:next_run AS json))
    """
)


def settle_in(connection: Connection, job_id: UUID, lease_id: UUID, settlement: Settlement) -> tuple[str, str | None]:
    """Call `settle_run.sql` in the caller's transaction."""
    names = ("outcome", "state", "delay", "result", "error", "usage", "max_age", "added", "next_run")
    values = dict(zip(names, _values(settlement), strict=True))
    row = connection.execute(_SETTLE, {"job_id": job_id, "lease_id": lease_id, **values}).one()
    return row.verdict, row.state


def _values(settlement: Settlement) -> tuple[Any, ...]:
    return (
        settlement.outcome,
        settlement.state,
        settlement.delay_seconds,
        _json(settlement.result),
        _json(settlement.error),
        _json(settlement.usage),
        settlement.max_age_seconds,
        None if settlement.added is None else settlement.added.decode(),
        _json(settlement.next_run),
    )


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


@dataclass(frozen=True)
class Success:
    """A successful run of a plain job (no limit keys, no workflow) that waits to be settled with others."""

    job_id: UUID
    lease_id: UUID
    #: the handler's result, and what the run used: as JSON
    result: bytes
    usage: bytes
    #: when its handler started (time.monotonic); None: at its claim
    began_at: float | None


class ClaimedAhead(NamedTuple):
    """A row of `claim_runs.sql`."""

    tenant_id: UUID
    payload: Any
    run_no: int
    attempt: int
    max_attempts: int


class ClaimRequest(NamedTuple):
    """A delivery to claim ahead of a free slot."""

    job_id: UUID
    dispatch_no: int
    kind: str
    lease_id: UUID


def commit_runs(
    ledger: Ledger, successes: Sequence[Success], claims: Sequence[ClaimRequest], worker_id: UUID, node: str
) -> tuple[set[UUID], dict[UUID, ClaimedAhead]]:
    """Call `commit_runs.sql`, one transaction: settle these runs, and claim these deliveries.

    Returns the leases of the settled runs, and lease → claim. What is missing is undecided: settle or claim it alone.
    """
    now = time.monotonic()
    settlements = [
        {
            "job": str(run.job_id),
            "lease": str(run.lease_id),
            "result": orjson.Fragment(run.result),
            "usage": orjson.Fragment(run.usage),
            "seconds": None if run.began_at is None else max(0.0, now - run.began_at),
        }
        for run in successes
    ]
    wanted = [
        {"job": str(claim.job_id), "no": claim.dispatch_no, "kind": claim.kind, "lease": str(claim.lease_id)}
        for claim in claims
    ]
    settled: set[UUID] = set()
    claimed: dict[UUID, ClaimedAhead] = {}
    for is_claim, lease_id, tenant_id, *values in ledger.call(
        "commit_runs", _json(settlements or None), _json(wanted or None), worker_id, node
    ):
        if is_claim:
            claimed[UUID(str(lease_id))] = ClaimedAhead(UUID(str(tenant_id)), *values)
        else:
            settled.add(UUID(str(lease_id)))
    return settled, claimed


_PROGRESS = text(
    """
    UPDATE jobs SET progress = CAST(:progress AS jsonb) WHERE id = :job_id AND lease_id = :lease_id
    RETURNING cancel_requested_at IS NOT NULL
    """
)


def write_progress(connection: Connection, job_id: UUID, lease_id: UUID, progress: dict[str, Any]) -> bool | None:
    """Write a run's progress; returns whether cancel was requested, or None when the lease is lost."""
    return connection.execute(
        _PROGRESS, {"job_id": job_id, "lease_id": lease_id, "progress": _json(progress)}
    ).scalar_one_or_none()


_LEASE = text("SELECT cancel_requested_at IS NOT NULL FROM jobs WHERE id = :job_id AND lease_id = :lease_id")


def cancel_requested(connection: Connection, job_id: UUID, lease_id: UUID) -> bool | None:
    """Return whether the run is to be cancelled, or None when its lease is lost."""
    return connection.execute(_LEASE, {"job_id": job_id, "lease_id": lease_id}).scalar_one_or_none()


# locked: the line belongs to a run that still holds its lease when it is committed; and lines of one job, of several
# threads perhaps, become visible in the order of their ids (read_feed)
_LOG = text(
    """
    WITH mine AS (
        SELECT id, tenant_id, state, run_no FROM jobs WHERE id = :job_id AND lease_id = :lease_id FOR NO KEY UPDATE
    )
    INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
    SELECT id, tenant_id, :event, state, run_no, CAST(:data AS jsonb) FROM mine
    """
)


def write_remark(connection: Connection, job_id: UUID, lease_id: UUID, event: Event, data: dict[str, Any]) -> bool:
    """Append an event without a change of state to the job's history; False when the lease is lost."""
    values = {"job_id": job_id, "lease_id": lease_id, "event": str(event), "data": _json(data)}
    return connection.execute(_LOG, values).rowcount == 1


_RETURN = text("SELECT return_job(:job_id, :dispatch_no, :reason)")


def return_job(connection: Connection, job_id: UUID, dispatch_no: int, reason: str) -> bool:
    """Call `return_job.sql`: a dispatched job that was never claimed returns to available."""
    return bool(
        connection.execute(_RETURN, {"job_id": job_id, "dispatch_no": dispatch_no, "reason": reason}).scalar_one()
    )


_RUNS = text(
    """
    SELECT run_no, attempt, outcome, worker_id, dispatched_at, started_at, finished_at, error, usage
    FROM job_runs WHERE job_id = :id AND finished_at >= :since AND tenant_id = :tenant_id
    UNION ALL
    SELECT run_no, attempt, 'running', worker_id, dispatched_at, run_started_at, NULL, NULL, NULL
    FROM jobs WHERE id = :id AND tenant_id = :tenant_id AND state = 'running'
    ORDER BY run_no LIMIT :limit
    """
)


def runs_of(connection: Connection, tenant_id: UUID, job_id: UUID, limit: int = 1000) -> Sequence[Row[Any]]:
    """Return a job's runs in order; a run in progress has the outcome "running"."""
    return connection.execute(
        _RUNS, {"id": job_id, "tenant_id": tenant_id, "since": earliest_end(job_id), "limit": limit}
    ).all()


_EVENTS = text(
    """
    SELECT id, at, event, state, run_no, data FROM job_events
    WHERE job_id = :id AND at >= :since AND tenant_id = :tenant_id AND id > :after ORDER BY id LIMIT :limit
    """
)


def events_of(
    connection: Connection, tenant_id: UUID, job_id: UUID, after: int = 0, limit: int = 1000
) -> Sequence[Row[Any]]:
    """Return a job's events in order, after event `after`."""
    return connection.execute(
        _EVENTS,
        {"id": job_id, "tenant_id": tenant_id, "since": earliest_end(job_id), "after": after, "limit": limit},
    ).all()


def children_of(connection: Connection, job_id: UUID) -> list[Any]:
    """Return the children of a task's last run, in Celery's form."""
    value = connection.execute(
        text(
            "SELECT usage -> 'children' FROM job_runs "
            "WHERE job_id = :id AND finished_at >= :since ORDER BY run_no DESC LIMIT 1"
        ),
        {"id": job_id, "since": earliest_end(job_id)},
    ).scalar()
    return list(value or ())


_ATTEMPT = text("SELECT attempt, max_attempts FROM jobs WHERE id = :job_id AND lease_id = :lease_id")


def attempt_of(connection: Connection, job_id: UUID, lease_id: UUID) -> tuple[int, int] | None:
    """Return (attempt, max_attempts) of a run that has its lease."""
    row = connection.execute(_ATTEMPT, {"job_id": job_id, "lease_id": lease_id}).one_or_none()
    return (row.attempt, row.max_attempts) if row else None


def running_leases(connection: Connection, worker_id: UUID, leases: Sequence[UUID]) -> set[UUID]:
    """Return which of these leases belong to runs of this worker."""
    statement = text(
        "SELECT lease_id FROM jobs WHERE worker_id = :worker_id AND state = 'running' AND lease_id = ANY (:leases)"
    )
    return set(connection.execute(statement, {"worker_id": worker_id, "leases": list(leases)}).scalars())
