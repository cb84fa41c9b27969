"""Queries on markers, which detect single lost messages; see `sql/92_queue_markers.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

_WANTED = text("SELECT queue, priority FROM due_markers(:quiet, :lease)")
_PUT = text("INSERT INTO queue_markers (id, queue, priority) VALUES (:id, :queue, :priority)")
_SEEN = text("UPDATE queue_markers SET seen_at = clock_timestamp() WHERE id = ANY (:ids) AND seen_at IS NULL")
_EVIDENCE = text("SELECT job_id, queue, priority FROM confirm_lost_messages(:lease, :limit)")


def due_markers(connection: Connection, quiet_seconds: float, lease_seconds: float) -> Sequence[Row[Any]]:
    """Return (queue, priority) for which a marker is due."""
    # two dispatchers must not both send one
    connection.execute(text("SELECT take_lock('markers')"))
    return connection.execute(_WANTED, {"quiet": quiet_seconds, "lease": lease_seconds}).all()


def put_marker(connection: Connection, marker_id: UUID, queue: str, priority: int) -> None:
    """Record a marker before it is published."""
    connection.execute(_PUT, {"id": marker_id, "queue": queue, "priority": priority})


def forget_markers(connection: Connection, marker_ids: Sequence[UUID]) -> None:
    """Delete markers that RabbitMQ did not confirm."""
    connection.execute(text("DELETE FROM queue_markers WHERE id = ANY (:ids)"), {"ids": list(marker_ids)})


def note_seen(connection: Connection, marker_ids: Sequence[UUID]) -> None:
    """Record that a worker has received these markers."""
    connection.execute(_SEEN, {"ids": list(marker_ids)})


_UNREAD = text(
    """
    SELECT DISTINCT queue FROM (
        SELECT DISTINCT ON (queue, priority) queue, sent_at, seen_at,
            lead(id) OVER of_class IS NOT NULL AND lead(seen_at) OVER of_class IS NULL AS another_unseen
        FROM queue_markers WHERE queue = ANY (:queues)
        WINDOW of_class AS (PARTITION BY queue, priority ORDER BY sent_at DESC)
        ORDER BY queue, priority, sent_at DESC) AS last
    WHERE seen_at IS NULL AND another_unseen AND sent_at < clock_timestamp() - make_interval(secs => :seconds)
        AND EXISTS (
            SELECT 1 FROM jobs WHERE jobs.queue = last.queue AND state = 'dispatched'
                AND state IN ('dispatched', 'running') AND dispatched_at < last.sent_at)
    """
)


def unread(connection: Connection, queues: Sequence[str], seconds: float) -> list[str]:
    """Return the queues whose last two markers were not received, the last one for so long, while jobs are in flight
    that it was sent for. Two, because one may be lost itself, or with a worker that died."""
    return sorted(connection.execute(_UNREAD, {"queues": list(queues), "seconds": seconds}).scalars())


def confirm_lost_messages(connection: Connection, lease_seconds: float, limit: int = 10_000) -> Sequence[Row[Any]]:
    """Return jobs to available whose messages are lost, as proven by markers."""
    return connection.execute(_EVIDENCE, {"lease": lease_seconds, "limit": limit}).all()
