"""Queries on queues: their rows, windows and counts, all bounded (I7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

#: cap of the count of dead letters: "10,000 or more"
COUNT_CAP = 10_000
#: of jobs that are blocked, scheduled, held or dead, of one tenant: some 20 ms
SET_ASIDE_CAP = 200_000


def put_queue(connection: Connection, name: str, window_min: int, window_factor: float) -> None:
    """Write a queue's row as configured; a pause is kept."""
    connection.execute(
        text(
            "INSERT INTO queues (name, window_min, window_factor) VALUES (:n, :m, :f) ON CONFLICT (name) DO UPDATE "
            "SET window_min = excluded.window_min, window_factor = excluded.window_factor "
            "WHERE (queues.window_min, queues.window_factor) <> (excluded.window_min, excluded.window_factor)"
        ),
        {"n": name, "m": window_min, "f": window_factor},
    )


def list_queues(connection: Connection) -> Sequence[Row[Any]]:
    """Return name, window_min, window_factor, paused_at, paused_until of all queues."""
    return connection.execute(
        text("SELECT name, window_min, window_factor, paused_at, paused_until FROM queues ORDER BY name")
    ).all()


def set_paused(connection: Connection, name: str, paused: bool, until: datetime | None = None) -> bool:
    """Pause a queue (until resumed, or until a time) or resume it; False if there is no such queue."""
    moment = "coalesce(paused_at, clock_timestamp())" if paused else "NULL"
    changed = connection.execute(
        text(f"UPDATE queues SET paused_at = {moment}, paused_until = :until WHERE name = :n"),
        {"n": name, "until": until if paused else None},
    )
    return changed.rowcount == 1


_TOTALS = text(
    "SELECT queue, sum(accepted)::bigint AS accepted, sum(finished)::bigint AS finished, "
    "sum(deadlines_met)::bigint AS deadlines_met, sum(deadlines_missed)::bigint AS deadlines_missed "
    "FROM queue_counters WHERE tenant_id = :tenant_id GROUP BY queue"
)


def totals_of(connection: Connection, tenant_id: UUID) -> Mapping[str, Row[Any]]:
    """Return queue → accepted, finished, deadlines_met, deadlines_missed, from slotted counters: exact at any size."""
    rows = connection.execute(_TOTALS, {"tenant_id": tenant_id})
    return {row.queue: row for row in rows}


_ACTIVE = text(
    """
    SELECT queue, state, count(*)::integer AS jobs FROM jobs
    WHERE tenant_id = :tenant_id AND state IN ('dispatched', 'running') GROUP BY queue, state
    """
)
_SET_ASIDE = text(
    """
    SELECT queue, state, count(*)::integer AS jobs FROM (
        SELECT queue, state FROM jobs
        WHERE tenant_id = :tenant_id AND state IN ('blocked', 'scheduled', 'held', 'dead') LIMIT :cap) AS set_aside
    GROUP BY queue, state
    """
)


def active_of(connection: Connection, tenant_id: UUID) -> Mapping[tuple[str, str], int]:
    """Return (queue, state) → jobs for dispatched and running ones: bounded by the windows."""
    rows = connection.execute(_ACTIVE, {"tenant_id": tenant_id})
    return {(row.queue, row.state): row.jobs for row in rows}


def set_aside_of(connection: Connection, tenant_id: UUID) -> Mapping[tuple[str, str], int]:
    """Return (queue, state) → jobs that do not wait for a worker: blocked, scheduled, held and dead ones.

    Counted in a partial index, up to `SET_ASIDE_CAP` in all (I7).
    """
    rows = connection.execute(_SET_ASIDE, {"tenant_id": tenant_id, "cap": SET_ASIDE_CAP})
    return {(row.queue, row.state): row.jobs for row in rows}


_MEASURE = text(
    """
    SELECT q.name AS queue, (q.paused_at IS NOT NULL)::int AS paused,
           coalesce(c.accepted, 0)::bigint AS accepted, coalesce(c.finished, 0)::bigint AS finished,
           coalesce(c.deadlines_met, 0)::bigint AS deadlines_met,
           coalesce(c.deadlines_missed, 0)::bigint AS deadlines_missed,
           coalesce(busy.dispatched, 0) AS dispatched, coalesce(busy.running, 0) AS running,
           coalesce(extract(epoch FROM clock_timestamp() - first.at), 0)::double precision AS oldest_seconds,
           live.workers, coalesce(live.slots, 0) AS slots, live.draining
    FROM queues q
    LEFT JOIN LATERAL (
        SELECT sum(accepted) AS accepted, sum(finished) AS finished, sum(deadlines_met) AS deadlines_met,
               sum(deadlines_missed) AS deadlines_missed
        FROM queue_counters WHERE queue = q.name) c ON true
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE state = 'dispatched') AS dispatched,
               count(*) FILTER (WHERE state = 'running') AS running
        FROM jobs WHERE queue = q.name AND state IN ('dispatched', 'running')) busy ON true
    LEFT JOIN LATERAL (
        SELECT state_at AS at FROM jobs WHERE queue = q.name AND state = 'available' AND attempt >= 0
        ORDER BY state_at LIMIT 1) first ON true
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE draining_at IS NULL) AS workers,
               sum(slots) FILTER (WHERE draining_at IS NULL) AS slots,
               count(*) FILTER (WHERE draining_at IS NOT NULL) AS draining FROM workers
        WHERE q.name = ANY (queues) AND stopped_at IS NULL
            AND heartbeat_at > clock_timestamp() - make_interval(secs => :lease_seconds)) live ON true
    ORDER BY q.name
    """
)


def measure_queues(connection: Connection, lease_seconds: float) -> Sequence[Row[Any]]:
    """Return queue, paused, accepted, finished, dispatched, running, oldest_seconds, workers, slots, draining of every
    queue; draining workers are not counted as workers."""
    return connection.execute(_MEASURE, {"lease_seconds": lease_seconds}).all()


def dead_letters(connection: Connection) -> int:
    """Return how many jobs of all tenants need an operator, counted up to `COUNT_CAP`."""
    statement = text("SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state IN ('dead', 'held') LIMIT :cap) AS dead")
    return int(connection.execute(statement, {"cap": COUNT_CAP}).scalar_one())


_OVERDUE = text(
    "SELECT greatest(0, extract(epoch FROM clock_timestamp() - run_at))::double precision FROM jobs "
    "WHERE state = 'scheduled' ORDER BY run_at LIMIT 1"
)


def overdue_seconds(connection: Connection) -> float:
    """Return for how long the oldest due job has been waiting to be made available (s); 0 if there is none."""
    return float(connection.execute(_OVERDUE).scalar_one_or_none() or 0.0)
