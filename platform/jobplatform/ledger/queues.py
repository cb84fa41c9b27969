"""Queries on queues: their rows, windows and counts, all bounded (I7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

#: the count of dead letters stops here: "10,000 or more"
COUNT_CAP = 10_000


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
    """Return name, window_min, window_factor, paused_at of all queues."""
    return connection.execute(text("SELECT name, window_min, window_factor, paused_at FROM queues ORDER BY name")).all()


def set_paused(connection: Connection, name: str, paused: bool) -> bool:
    """Pause or resume a queue; False when there is no such queue."""
    moment = "coalesce(paused_at, clock_timestamp())" if paused else "NULL"
    return (
        connection.execute(text(f"UPDATE queues SET paused_at = {moment} WHERE name = :n"), {"n": name}).rowcount == 1
    )


_TOTALS = text(
    "SELECT queue, sum(accepted)::bigint AS accepted, sum(finished)::bigint AS finished "
    "FROM queue_counters WHERE tenant_id = :tenant_id GROUP BY queue"
)


def totals_of(connection: Connection, tenant_id: UUID) -> Mapping[str, tuple[int, int]]:
    """Return queue → (accepted, finished) from the slotted counters: exact, and cheap at any size."""
    rows = connection.execute(_TOTALS, {"tenant_id": tenant_id})
    return {row.queue: (row.accepted, row.finished) for row in rows}


_ACTIVE = text(
    """
    SELECT queue, state, count(*)::integer AS jobs FROM jobs
    WHERE tenant_id = :tenant_id AND state IN ('dispatched', 'running') GROUP BY queue, state
    """
)
_DEAD = text(
    """
    SELECT queue, count(*)::integer AS jobs FROM (
        SELECT queue FROM jobs WHERE tenant_id = :tenant_id AND state = 'dead' AND state IN ('dead', 'held')
        LIMIT :cap) AS dead
    GROUP BY queue
    """
)


def active_of(connection: Connection, tenant_id: UUID) -> Mapping[tuple[str, str], int]:
    """Return (queue, state) → jobs for dispatched and running ones: bounded by the windows."""
    rows = connection.execute(_ACTIVE, {"tenant_id": tenant_id})
    return {(row.queue, row.state): row.jobs for row in rows}


def dead_of(connection: Connection, tenant_id: UUID) -> Mapping[str, int]:
    """Return queue → dead letters, counted up to `COUNT_CAP` in all."""
    rows = connection.execute(_DEAD, {"tenant_id": tenant_id, "cap": COUNT_CAP})
    return {row.queue: row.jobs for row in rows}
