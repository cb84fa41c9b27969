"""Queries on workers: registration, heartbeats, and the rescue of lost runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

_REGISTER = text(
    """
    INSERT INTO workers (id, node, host, pid, pool, slots, queues, kinds)
    VALUES (:id, :node, :host, :pid, :pool, :slots, :queues, :kinds)
    ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp(), stopped_at = NULL
    """
)


def register_worker(connection: Connection, values: dict[str, Any]) -> None:
    """Register a worker process, or one whose row was deleted."""
    connection.execute(_REGISTER, values)


_BEAT = text(
    "SELECT known, job_id, lease_id, cancel_requested_seconds, cancel_signal "
    "FROM record_heartbeat(:worker_id, :leases, :waiting, :draining)"
)


def record_heartbeat(
    connection: Connection,
    worker_id: UUID,
    leases: Sequence[UUID],
    waiting: Sequence[UUID] = (),
    draining: bool = False,
) -> tuple[bool, list[Row[Any]]]:
    """Call `record_heartbeat.sql`; returns whether the worker is known, and its runs that are to be cancelled."""
    values = {"worker_id": worker_id, "leases": list(leases), "waiting": list(waiting), "draining": draining}
    rows = connection.execute(_BEAT, values).all()
    return all(row.known for row in rows) if rows else True, [row for row in rows if row.known and row.job_id]


def stop_worker(connection: Connection, worker_id: UUID) -> None:
    """Record that a worker has ended: runs that it still has are lost at once."""
    connection.execute(
        text("UPDATE workers SET stopped_at = clock_timestamp(), leases = '{}' WHERE id = :id"), {"id": worker_id}
    )


def keep_heartbeats_open(connection: Connection, wait_seconds: float) -> datetime:
    """Make sure that heartbeats and claims can be written until this transaction ends; returns the ledger's time.

    Waits for so long for a table that is locked, then raises `LedgerBusy`.
    """
    connection.execute(text("SELECT set_config('lock_timeout', :ms, true)"), {"ms": f"{int(wait_seconds * 1000)}ms"})
    connection.execute(text("LOCK TABLE jobs, workers IN ROW EXCLUSIVE MODE"))
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


_RESCUE = text("SELECT job_id, run_no, outcome, state FROM rescue_runs(:lease_seconds, :limit, :gone_seconds, :as_of)")


def rescue_runs(
    connection: Connection,
    lease_seconds: float,
    gone_seconds: float | None = None,
    as_of: datetime | None = None,
    limit: int = 100,
) -> Sequence[Row[Any]]:
    """Call `rescue_runs.sql`; returns the runs it ended.

    `gone_seconds`: maximum age of the last heartbeat of a worker whose session has ended; None: a lease, as for others.
    `as_of`: the time at which silence is measured; None: now.
    """
    values = {"lease_seconds": lease_seconds, "limit": limit, "gone_seconds": gone_seconds, "as_of": as_of}
    return connection.execute(_RESCUE, values).all()


def forget_stopped(connection: Connection, days: int = 7) -> int:
    """Delete workers that have been gone for days."""
    return connection.execute(
        text("DELETE FROM workers WHERE heartbeat_at < clock_timestamp() - make_interval(days => :days)"),
        {"days": days},
    ).rowcount


_LIST = text(
    """
    SELECT id, node, host, pid, pool, slots, queues, kinds, started_at, heartbeat_at,
           (SELECT count(*)::integer FROM jobs j WHERE j.worker_id = w.id AND j.state = 'running') AS running,
           extract(epoch FROM clock_timestamp() - heartbeat_at)::double precision AS silent_seconds,
           CASE WHEN stopped_at IS NOT NULL THEN 'ended'
                WHEN heartbeat_at <= clock_timestamp() - make_interval(secs => :lease_seconds) THEN 'lost'
                WHEN draining_at IS NOT NULL THEN 'draining'
                ELSE 'alive' END AS state
    FROM workers w WHERE :everyone OR stopped_at IS NULL ORDER BY stopped_at NULLS FIRST, node, started_at DESC
    """
)


def list_workers(connection: Connection, lease_seconds: float, *, everyone: bool) -> Sequence[Row[Any]]:
    """Return the workers with their runs, their silence (s), and their state: alive, draining, lost, ended."""
    return connection.execute(_LIST, {"lease_seconds": lease_seconds, "everyone": everyone}).all()


_KNOWS_KIND = text(
    """
    SELECT EXISTS (
        SELECT 1 FROM jobs j JOIN workers w ON j.queue = ANY (w.queues) AND j.kind = ANY (w.kinds)
        WHERE j.id = :job_id AND w.stopped_at IS NULL
            AND w.heartbeat_at > clock_timestamp() - make_interval(secs => :lease_seconds))
    """
)


def knows_kind(connection: Connection, job_id: UUID, lease_seconds: float) -> bool:
    """Return whether a live worker of a job's queue knows its kind."""
    return bool(connection.execute(_KNOWS_KIND, {"job_id": job_id, "lease_seconds": lease_seconds}).scalar_one())


_LIVE_KINDS = text(
    """
    SELECT DISTINCT queue, kind FROM workers, unnest(queues) AS queue, unnest(kinds) AS kind
    WHERE stopped_at IS NULL AND heartbeat_at > clock_timestamp() - make_interval(secs => :lease_seconds)
    """
)


def live_kinds(connection: Connection, lease_seconds: float) -> set[tuple[str, str]]:
    """Return each (queue, kind) that a live worker knows."""
    return {(row.queue, row.kind) for row in connection.execute(_LIVE_KINDS, {"lease_seconds": lease_seconds})}


_LIVE_SLOTS = text(
    """
    SELECT queue, sum(slots)::integer AS slots, count(*)::integer AS workers
    FROM workers, unnest(queues) AS queue
    WHERE stopped_at IS NULL AND draining_at IS NULL
        AND heartbeat_at > clock_timestamp() - make_interval(secs => :lease_seconds)
    GROUP BY queue
    """
)


def live_slots(connection: Connection, lease_seconds: float) -> dict[str, tuple[int, int]]:
    """Return queue → (slots, workers) of the live workers that take jobs."""
    rows = connection.execute(_LIVE_SLOTS, {"lease_seconds": lease_seconds})
    return {row.queue: (row.slots, row.workers) for row in rows}
