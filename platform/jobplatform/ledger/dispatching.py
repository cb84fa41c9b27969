"""Queries of the dispatcher: due jobs, the pick, the mark, the broker's epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.ledger.tables import PARTITION_DAYS, PARTITIONED


def make_due(connection: Connection, limit: int) -> dict[str, int]:
    """Make scheduled jobs whose time has come available; returns queue → how many."""
    rows = connection.execute(text("SELECT queue, made FROM make_due(:limit)"), {"limit": limit})
    return {row.queue: row.made for row in rows}


def expire_jobs(connection: Connection, limit: int) -> int:
    """Expire jobs whose start_by has passed before a run began."""
    return int(connection.execute(text("SELECT expire_jobs(:limit)"), {"limit": limit}).scalar_one())


_NEXT_DUE = text(
    """
    SELECT extract(epoch FROM run_at - clock_timestamp())::double precision FROM jobs
    WHERE state = 'scheduled' ORDER BY run_at LIMIT 1
    """
)


def seconds_until_due(connection: Connection) -> float | None:
    """Return the seconds until the next scheduled job is due; None when none is."""
    return connection.execute(_NEXT_DUE).scalar_one_or_none()


_WAITING = text(
    """
    SELECT q.name FROM queues q WHERE q.paused_at IS NULL AND EXISTS (
        SELECT 1 FROM unnest(ARRAY[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]) AS p(priority)
        CROSS JOIN LATERAL (
            SELECT 1 FROM jobs
            WHERE queue = q.name AND state = 'available' AND priority = p.priority
                AND state_at >= coalesce((
                    SELECT m.mark FROM unnest(
                        CAST(:queues AS text[]), CAST(:priorities AS integer[]), CAST(:marks AS timestamptz[])
                    ) AS m(queue, priority, mark)
                    WHERE m.queue = q.name AND m.priority = p.priority), '-infinity')
            LIMIT 1) AS one)
    """
)

Marks = Mapping[tuple[str, int], datetime]


def waiting_queues(connection: Connection, marks: Marks) -> set[str]:
    """Return the queues that are not paused and have available jobs, looking from the low-water marks on."""
    keys = list(marks)
    return set(
        connection.execute(
            _WAITING,
            {
                "queues": [queue for queue, _ in keys],
                "priorities": [priority for _, priority in keys],
                "marks": [marks[key] for key in keys],
            },
        ).scalars()
    )


def try_lock_queue(connection: Connection, queue: str) -> bool:
    """Take the queue's advisory lock until this transaction ends.

    On the transaction that does the marking: a dispatcher that dies or is ended by the server's time-outs loses rows
    and lock together, and a pooled connection can't keep it.
    """
    return bool(
        connection.execute(
            text("SELECT pg_try_advisory_xact_lock(hashtext('jobplatform.dispatch'), hashtext(:queue))"),
            {"queue": queue},
        ).scalar_one()
    )


def current_epoch(connection: Connection) -> UUID | None:
    """Return the broker's current epoch; None before the guard has made one."""
    return connection.execute(text("SELECT epoch FROM broker_epochs WHERE current")).scalar_one_or_none()


def put_epoch(connection: Connection, epoch: UUID) -> None:
    """Make `epoch` the current one."""
    connection.execute(text("UPDATE broker_epochs SET current = false WHERE current"))
    connection.execute(text("INSERT INTO broker_epochs (epoch, current) VALUES (:e, true)"), {"e": epoch})


def return_other_epochs(connection: Connection, current: UUID, limit: int) -> int:
    """Return jobs that were dispatched in an earlier epoch to available; returns how many."""
    returned = connection.execute(
        text("SELECT return_other_epochs(:current, :limit)"), {"current": current, "limit": limit}
    )
    return int(returned.scalar_one())


_LOOK = text(
    """
    SELECT q.paused_at IS NOT NULL AS paused,
           (SELECT epoch FROM broker_epochs WHERE current) AS epoch,
           (SELECT jsonb_object_agg(priority, jobs) FROM (
                SELECT priority, count(*) AS jobs FROM jobs
                WHERE queue = :queue AND state IN ('dispatched', 'running') GROUP BY priority) AS busy) AS active
    FROM queues q WHERE q.name = :queue
    """
)


@dataclass(frozen=True)
class QueueLook:
    """A queue as a round finds it: `active` is priority → jobs that are dispatched or running."""

    paused: bool
    epoch: UUID | None
    active: Mapping[int, int]


def look_at_queue(connection: Connection, queue: str) -> QueueLook:
    """Return what a round has to know before it picks; a queue that is not known counts as paused."""
    row = connection.execute(_LOOK, {"queue": queue}).one_or_none()
    if row is None:
        return QueueLook(True, None, {})
    active = {int(priority): int(jobs) for priority, jobs in (row.active or {}).items()}
    return QueueLook(row.paused, row.epoch, active)


_PICK = text(
    """
    SELECT j.id, j.kind, j.priority, j.dispatch_no, j.state_at
    FROM unnest(CAST(:priorities AS integer[]), CAST(:limits AS integer[]), CAST(:marks AS timestamptz[]))
        AS lane(priority, free, mark)
    CROSS JOIN LATERAL (
        SELECT id, kind, priority, dispatch_no, state_at FROM jobs
        WHERE queue = :queue AND state = 'available' AND priority = lane.priority
            AND state_at >= coalesce(lane.mark, '-infinity')
        ORDER BY state_at LIMIT lane.free FOR UPDATE SKIP LOCKED
    ) AS j
    ORDER BY j.priority DESC, j.state_at
    """
)


def pick_jobs(connection: Connection, queue: str, limits: Mapping[int, int], marks: Marks) -> Sequence[Row[Any]]:
    """Lock available jobs: per priority up to its limit, oldest first from the low-water mark on.

    Returns id, kind, priority, dispatch_no, state_at; most urgent first.
    """
    priorities = [priority for priority, limit in limits.items() if limit > 0]
    return connection.execute(
        _PICK,
        {
            "queue": queue,
            "priorities": priorities,
            "limits": [limits[priority] for priority in priorities],
            "marks": [marks.get((queue, priority)) for priority in priorities],
        },
    ).all()


_MARK = text(
    """
    WITH marked AS (
        UPDATE jobs SET
            state = 'dispatched', state_at = clock_timestamp(), dispatched_at = clock_timestamp(),
            dispatch_no = dispatch_no + 1, epoch = :epoch
        WHERE id = ANY (:ids) AND state = 'available'
        RETURNING id, tenant_id, state, run_no, dispatch_no
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT id, tenant_id, 'dispatched', state, run_no, jsonb_build_object('dispatch_no', dispatch_no) FROM marked
    )
    SELECT count(*)::integer FROM marked
    """
)


def mark_dispatched(connection: Connection, job_ids: Sequence[UUID], epoch: UUID) -> int:
    """Mark picked jobs as dispatched with the next dispatch_no; returns how many."""
    return int(connection.execute(_MARK, {"ids": list(job_ids), "epoch": epoch}).scalar_one())


def ensure_partitions(connection: Connection, weeks_behind: int = 1, weeks_ahead: int = 13) -> int:
    """Make the partitions of history, runs and events around now; returns how many were missing."""
    made = 0
    for table in PARTITIONED:
        made += connection.execute(
            text(
                "SELECT ensure_partitions(:table, :days, now() - make_interval(weeks => :behind), "
                "now() + make_interval(weeks => :ahead))"
            ),
            {"table": table, "days": PARTITION_DAYS, "behind": weeks_behind, "ahead": weeks_ahead},
        ).scalar_one()
    return made
