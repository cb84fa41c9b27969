"""Queries of `explain`: each bounded at any backlog (I7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

#: cap of the count of jobs ahead: "10,000 or more"
AHEAD_CAP = 10_000

_STANDING = text(
    """
    SELECT j.id, j.tenant_id, j.workflow_id, j.limit_keys, j.limit_units,
           j.queue, j.kind, j.state, j.priority, j.state_at, j.run_at, j.start_by, j.dispatched_at,
           j.run_started_at, j.dispatch_no, j.run_no, j.attempt, j.max_attempts, j.error, j.progress, j.cancel_reason,
           j.cancel_requested_at, clock_timestamp() AS now, q.paused_at, q.paused_until,
           w.node AS worker, w.heartbeat_at AS worker_heartbeat_at
    FROM jobs j LEFT JOIN queues q ON q.name = j.queue LEFT JOIN workers w ON w.id = j.worker_id
    WHERE j.id = :id AND j.tenant_id = :tenant_id
    """
)
_AHEAD = text(
    """
    SELECT
        (SELECT count(*)::integer FROM (
            SELECT 1 FROM jobs WHERE queue = :queue AND state = 'available' AND priority > :priority
            LIMIT :cap) AS above) AS above,
        (SELECT count(*)::integer FROM (
            SELECT 1 FROM jobs
            WHERE queue = :queue AND state = 'available' AND priority = :priority AND tenant_id = :tenant_id
                AND limit_keys = :limit_keys AND state_at < :state_at
            LIMIT :cap) AS own) AS own
    """
)
_OUT = text(
    """
    SELECT count(*) FILTER (WHERE state = 'dispatched')::integer AS dispatched,
           count(*) FILTER (WHERE state = 'running')::integer AS running,
           count(*) FILTER (WHERE priority >= :priority)::integer AS of_this_class
    FROM jobs WHERE queue = :queue AND state IN ('dispatched', 'running')
    """
)
_WORKERS = text(
    """
    SELECT node, slots, :kind = ANY (kinds) AS knows_kind FROM workers
    WHERE :queue = ANY (queues) AND stopped_at IS NULL AND draining_at IS NULL
        AND heartbeat_at > clock_timestamp() - make_interval(secs => :lease_seconds)
    """
)
_EVENTS = text(
    "SELECT at, event, state, data FROM job_events WHERE job_id = :id AND event NOT IN ('log', 'output') "
    "ORDER BY id LIMIT 5000"
)


def standing_of(connection: Connection, tenant_id: UUID, job_id: UUID) -> Row[Any] | None:
    """Return a live job with its queue's pause and its worker."""
    return connection.execute(_STANDING, {"id": job_id, "tenant_id": tenant_id}).one_or_none()


def ahead_of(connection: Connection, job: Row[Any]) -> Row[Any]:
    """Return how many available jobs are ahead, each at most `AHEAD_CAP`: of higher priority, and in its own flow."""
    values = {name: getattr(job, name) for name in ("queue", "priority", "tenant_id", "limit_keys", "state_at")}
    return connection.execute(_AHEAD, values | {"cap": AHEAD_CAP}).one()


def in_flight_of(connection: Connection, job: Row[Any]) -> Row[Any]:
    """Return dispatched, running, of_this_class (of its priority or higher) of its queue: bounded by the windows."""
    return connection.execute(_OUT, {"queue": job.queue, "priority": job.priority}).one()


def workers_of(connection: Connection, job: Row[Any], lease_seconds: float) -> Sequence[Row[Any]]:
    """Return node, slots, knows_kind of the live workers that consume its queue."""
    return connection.execute(_WORKERS, {"queue": job.queue, "kind": job.kind, "lease_seconds": lease_seconds}).all()


def events_of(connection: Connection, job_id: UUID) -> Sequence[Row[Any]]:
    """Return at, event, state, data of a job's changes, in order."""
    return connection.execute(_EVENTS, {"id": job_id}).all()
