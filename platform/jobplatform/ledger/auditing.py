"""Queries of the audit (I8): independent records are compared with each other. Each is one statement, so
that it reads one snapshot, and each is bounded: a slice of jobs by their ids, or a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.domain.states import TRANSITIONS
from jobplatform.ledger.jobs import earliest_end

#: examples per finding
EXAMPLES = 20

_CONSERVATION = text(
    """
    WITH counted AS (
        SELECT tenant_id, queue, sum(accepted)::bigint AS accepted, sum(finished)::bigint AS finished
        FROM queue_counters GROUP BY tenant_id, queue
    ), live AS (
        SELECT tenant_id, queue, count(*)::bigint AS jobs FROM jobs GROUP BY tenant_id, queue
    )
    SELECT tenant_id, queue, coalesce(accepted, 0) AS accepted, coalesce(finished, 0) AS finished,
           coalesce(jobs, 0) AS live
    FROM counted FULL JOIN live USING (tenant_id, queue)
    WHERE coalesce(accepted, 0) - coalesce(finished, 0) <> coalesce(jobs, 0)
    """
)


def unconserved(connection: Connection) -> Sequence[Row[Any]]:
    """Return tenant_id, queue, accepted, finished, live where accepted ≠ finished + live."""
    return connection.execute(_CONSERVATION).all()


# every job of a slice with all its lines of history: chain, last state, numbers of dispatches and runs
_SLICE = text(
    """
    WITH allowed AS (
        SELECT * FROM unnest(CAST(:befores AS text[]), CAST(:events AS text[]), CAST(:afters AS text[]))
            AS t (before, event, after)
    ), lines AS (
        SELECT job_id, id, event, state, lag(state) OVER of_job AS before,
               lead(id) OVER of_job IS NULL AS is_last
        FROM job_events WHERE job_id >= :lowest AND job_id < :beyond AND at >= :since AND event NOT IN ('log', 'output')
        WINDOW of_job AS (PARTITION BY job_id ORDER BY id)
    ), recorded AS (
        SELECT job_id, max(state) FILTER (WHERE is_last) AS state,
               count(*) FILTER (WHERE event = 'dispatched') AS dispatched,
               count(*) FILTER (WHERE event = 'started') AS started,
               count(*) FILTER (WHERE event = 'cancel_requested') AS cancel_requested,
               min(format('%s: %s → %s → %s', lines.id, coalesce(lines.before, 'nothing'), lines.event, lines.state))
                   FILTER (WHERE NOT EXISTS (
                       SELECT 1 FROM allowed a WHERE a.before IS NOT DISTINCT FROM lines.before
                           AND a.event = lines.event AND a.after = lines.state)) AS break
        FROM lines GROUP BY job_id
    ), ran AS (
        SELECT job_id, count(*) AS runs, max(run_no) AS last FROM job_runs
        WHERE job_id >= :lowest AND job_id < :beyond AND finished_at >= :since GROUP BY job_id
    ), standing AS (
        SELECT id, state, run_no, dispatch_no, cancel_requested_at IS NOT NULL AS cancelling
        FROM jobs WHERE id >= :lowest AND id < :beyond
        UNION ALL
        SELECT id, state, run_no, dispatch_no, false FROM job_history
        WHERE id >= :lowest AND id < :beyond AND finished_at >= :since
    ), held AS (
        SELECT coalesce(s.id, t.job_id) AS job_id, CASE
            WHEN s.id IS NULL THEN 'row_missing'
            WHEN count(*) OVER (PARTITION BY s.id) > 1 THEN 'row_twice'
            WHEN t.job_id IS NULL THEN 'history_missing'
            WHEN t.break IS NOT NULL THEN 'history_broken'
            WHEN t.state <> s.state THEN 'state_differs'
            WHEN t.dispatched <> s.dispatch_no THEN 'dispatches_differ'
            WHEN t.started <> s.run_no THEN 'starts_differ'
            WHEN s.cancelling AND t.cancel_requested = 0 THEN 'cancel_missing'
            WHEN coalesce(r.runs, 0) <> s.run_no - (s.state = 'running')::int THEN 'runs_differ'
            END AS code, CASE
            WHEN s.id IS NULL THEN format('its history says %s, there is no such job', t.state)
            WHEN t.job_id IS NULL THEN format('it is %s, without any history', s.state)
            WHEN t.break IS NOT NULL THEN format('line %s is not possible', t.break)
            ELSE format('it is %s with %s dispatches and %s runs; its history says %s, %s and %s; %s runs are kept',
                s.state, s.dispatch_no, s.run_no, t.state, t.dispatched, t.started, coalesce(r.runs, 0)) END AS detail
        FROM standing s FULL JOIN recorded t ON t.job_id = s.id LEFT JOIN ran r ON r.job_id = coalesce(s.id, t.job_id)
    )
    SELECT code, count(*)::bigint AS jobs, (array_agg(job_id ORDER BY job_id))[1 : :examples] AS examples,
           (array_agg(detail ORDER BY job_id))[1] AS detail
    FROM held GROUP BY code
    """
)


def check_slice(connection: Connection, lowest: UUID, beyond: UUID) -> Sequence[Row[Any]]:
    """Return code, jobs, examples, detail for the jobs with ids from `lowest` to before `beyond`; code NULL is fine."""
    steps = [(before, event, after) for (before, event), afters in TRANSITIONS.items() for after in afters]
    return connection.execute(
        _SLICE,
        {
            "lowest": lowest,
            "beyond": beyond,
            "since": earliest_end(lowest),
            "examples": EXAMPLES,
            "befores": [str(before) if before else None for before, _, _ in steps],
            "events": [str(event) for _, event, _ in steps],
            "afters": [str(after) for _, _, after in steps],
        },
    ).all()


_STANDING_LONG = text(
    """
    SELECT 'worker_gone' AS code, count(*)::bigint AS jobs, (array_agg(id ORDER BY id))[1 : :examples] AS examples,
           'running on a worker without heartbeat, and not rescued' AS detail
    FROM (
        SELECT j.id FROM jobs j LEFT JOIN workers w ON w.id = j.worker_id
        WHERE j.state = 'running' AND j.run_started_at < clock_timestamp() - make_interval(secs => :patience)
            AND (w.id IS NULL OR w.heartbeat_at < clock_timestamp() - make_interval(secs => :patience))
        LIMIT 10000) AS gone
    UNION ALL
    SELECT 'overdue', count(*), (array_agg(id ORDER BY id))[1 : :examples], 'due, and not made available'
    FROM (
        SELECT id FROM jobs WHERE state = 'scheduled' AND run_at < clock_timestamp() - make_interval(secs => :patience)
        ORDER BY run_at LIMIT 10000) AS due
    UNION ALL
    SELECT 'lock_without_job', count(*), (array_agg(job_id ORDER BY job_id))[1 : :examples],
           'a unique lock whose job has ended'
    FROM (
        SELECT u.job_id FROM unique_locks u
        WHERE u.expires_at IS NULL AND NOT EXISTS (SELECT 1 FROM jobs WHERE id = u.job_id) LIMIT 10000) AS locks
    """
)


def long_standing(connection: Connection, patience_seconds: float) -> Sequence[Row[Any]]:
    """Return code, jobs, examples, detail of overdue work."""
    return connection.execute(_STANDING_LONG, {"patience": patience_seconds, "examples": EXAMPLES}).all()


# the counters of workflows that have not ended against the steps themselves, and steps against their jobs
_WORKFLOWS = text(
    """
    WITH going AS MATERIALIZED (
        SELECT id, state, pending FROM (
            SELECT * FROM workflows WHERE state = 'running' UNION ALL SELECT * FROM workflows WHERE state = 'stopping'
        ) AS either ORDER BY id DESC LIMIT :workflows
    ), steps AS MATERIALIZED (
        SELECT s.*, j.state AS job_state FROM workflow_steps s JOIN going w ON w.id = s.workflow_id
        LEFT JOIN jobs j ON j.id = s.id
    ), counted AS (
        SELECT child AS id, count(*) FILTER (WHERE state <> 'done' AND NOT failure_propagated) AS open,
               count(*) FILTER (WHERE failure_propagated) AS failed
        FROM steps, unnest(children) AS child GROUP BY child
    ), sinks AS (
        SELECT workflow_id, count(*) AS open FROM steps
        WHERE state <> 'done' AND NOT failure_propagated AND cardinality(children) = 0 GROUP BY workflow_id
    ), held AS (
        SELECT s.workflow_id, CASE
            WHEN s.pending <> coalesce(c.open, 0) THEN 'counter of a step'
            WHEN s.failed_parents <> coalesce(c.failed, 0) THEN 'counter of what has failed'
            WHEN w.state = 'running' AND s.pending = 0 AND s.state IN ('waiting', 'joining', 'skipped')
                AND NOT s.failure_propagated THEN 'step that waits for nothing'
            WHEN w.state = 'running' AND s.state = 'failed' AND NOT s.failure_propagated
                AND NOT (s.on_failure = 'skip' AND s.pending > 0) THEN 'failed step that stops nothing'
            WHEN s.type = 'job' AND (s.state = 'waiting') <> (s.job_state IS NOT DISTINCT FROM 'blocked')
                THEN 'step and job disagree'
            WHEN s.type = 'job' AND s.state = 'open' AND s.job_state IS NULL THEN 'step without its job' END AS detail
        FROM steps s JOIN going w ON w.id = s.workflow_id LEFT JOIN counted c ON c.id = s.id
        UNION ALL
        SELECT w.id, 'counter of the whole' FROM going w LEFT JOIN sinks ON sinks.workflow_id = w.id
        WHERE w.pending <> coalesce(sinks.open, 0)
    )
    SELECT 'workflow_broken' AS code, count(DISTINCT workflow_id)::bigint AS jobs,
           (array_agg(DISTINCT workflow_id))[1 : :examples] AS examples,
           'workflow: ' || string_agg(DISTINCT detail, ', ') AS detail
    FROM held WHERE detail IS NOT NULL
    """
)


def broken_workflows(connection: Connection, workflows: int = 1000) -> Sequence[Row[Any]]:
    """Return code, jobs (workflows), examples, detail of the newest running workflows with inconsistent counters."""
    return connection.execute(_WORKFLOWS, {"workflows": workflows, "examples": EXAMPLES}).all()


_OUT = text(
    "SELECT id, dispatch_no FROM jobs "
    "WHERE queue = :queue AND state = 'dispatched' AND state IN ('dispatched', 'running')"
)
_WAITING = text(
    "SELECT DISTINCT job FROM workers, unnest(waiting) AS job "
    "WHERE stopped_at IS NULL AND heartbeat_at > clock_timestamp() - make_interval(secs => :lease)"
)


def dispatched_of(connection: Connection, queue: str) -> dict[UUID, int]:
    """Return id → dispatch_no of the queue's dispatched jobs: at most its windows."""
    return {row.id: row.dispatch_no for row in connection.execute(_OUT, {"queue": queue})}


def waiting_in_workers(connection: Connection, lease_seconds: float) -> set[UUID]:
    """Return the jobs whose message a live worker has."""
    return set(connection.execute(_WAITING, {"lease": lease_seconds}).scalars())
