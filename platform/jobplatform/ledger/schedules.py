"""Queries on schedules and their fires."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

_DUE = text("SELECT (due).*, now FROM due_schedules(:limit)")


def due_schedules(connection: Connection, limit: int) -> Sequence[Row[Any]]:
    """Call `due_schedules`: returns the due schedules, locked, each with the database's `now`."""
    return connection.execute(_DUE, {"limit": limit}).all()


def fire_schedules(connection: Connection, fires: Sequence[dict[str, Any]]) -> str | None:
    """Call `fire_schedules`; returns the queues that got jobs."""
    woken: str | None = connection.execute(
        text("SELECT fire_schedules(CAST(:fires AS json))"), {"fires": orjson.dumps(fires).decode()}
    ).scalar_one()
    return woken


def release_fires(connection: Connection, limit: int) -> str | None:
    """Call `release_fires`; returns the queues that got jobs."""
    woken: str | None = connection.execute(text("SELECT release_fires(:limit)"), {"limit": limit}).scalar_one()
    return woken


_MISSED = text(
    """
    INSERT INTO schedule_fires (schedule_id, planned_at, outcome, missed_until)
    SELECT schedule_id, planned_at, 'missed', missed_until FROM jsonb_to_recordset(CAST(:missed AS jsonb)) AS m (
        schedule_id uuid, planned_at timestamptz, missed_until timestamptz)
    ON CONFLICT (schedule_id, planned_at) DO NOTHING
    """
)
_ADVANCE = text(
    """
    UPDATE schedules s SET next_planned_at = n.planned_at, next_due_at = n.due_at
    FROM jsonb_to_recordset(CAST(:next AS jsonb)) AS n (id uuid, planned_at timestamptz, due_at timestamptz)
    WHERE s.id = n.id
    """
)


def advance(connection: Connection, following: Sequence[dict[str, Any]], missed: Sequence[dict[str, Any]]) -> None:
    """Write the next times of schedules (id, planned_at, due_at), and their skipped fires."""
    if missed:
        connection.execute(_MISSED, {"missed": orjson.dumps(missed).decode()})
    connection.execute(_ADVANCE, {"next": orjson.dumps(following).decode()})


def put_off(connection: Connection, ids: Sequence[UUID], seconds: float) -> None:
    """Postpone schedules."""
    connection.execute(
        text(
            "UPDATE schedules SET next_due_at = clock_timestamp() + make_interval(secs => :seconds) "
            "WHERE id = ANY (:ids) AND next_due_at IS NOT NULL"
        ),
        {"ids": list(ids), "seconds": seconds},
    )


def seconds_until_due(connection: Connection) -> float | None:
    """Return the seconds until the next schedule is due; None if none is planned."""
    value = connection.execute(
        text(
            "SELECT extract(epoch FROM next_due_at - clock_timestamp()) FROM schedules "
            "WHERE paused_at IS NULL AND next_due_at IS NOT NULL ORDER BY next_due_at LIMIT 1"
        )
    ).scalar_one_or_none()
    return None if value is None else float(value)


_COLUMNS = (
    "id, name, spec, kind, queue, payload, priority, tags, max_attempts, start_within_seconds, jitter_seconds, "
    "overlap, missed, catch_up, start_at, end_at, anchor_at, paused_at, next_planned_at, last_planned_at, "
    "last_job_id, queued, created_at, updated_at, updated_by"
)


def list_schedules(connection: Connection, tenant_id: UUID, after: str, limit: int) -> Sequence[Row[Any]]:
    """Return schedules of a tenant in the order of their names, after a name."""
    statement = text(
        f"SELECT {_COLUMNS} FROM schedules WHERE tenant_id = :tenant_id AND name > :after ORDER BY name LIMIT :limit"
    )
    return connection.execute(statement, {"tenant_id": tenant_id, "after": after, "limit": limit}).all()


def get_schedule(connection: Connection, tenant_id: UUID, name: str, *, lock: bool = False) -> Row[Any] | None:
    """Return a schedule, with the database's `now`; `lock`: against dispatchers, for this transaction."""
    statement = text(
        f"SELECT {_COLUMNS}, clock_timestamp() AS now FROM schedules WHERE tenant_id = :tenant_id AND name = :name"
        f"{' FOR UPDATE' if lock else ''}"
    )
    return connection.execute(statement, {"tenant_id": tenant_id, "name": name}).one_or_none()


def count_schedules(connection: Connection, tenant_id: UUID, cap: int) -> int:
    """Return how many schedules a tenant has, counted up to `cap`."""
    statement = text(
        "SELECT count(*) FROM (SELECT 1 FROM schedules WHERE tenant_id = :tenant_id LIMIT :cap) AS counted"
    )
    return int(connection.execute(statement, {"tenant_id": tenant_id, "cap": cap}).scalar_one())


_PUT = text(
    """
    INSERT INTO schedules (
        id, tenant_id, name, spec, kind, queue, payload, priority, tags, max_attempts, crash_limit, lost_limit,
        limit_keys, limit_units, start_within_seconds, jitter_seconds, overlap, missed, catch_up, start_at, end_at,
        anchor_at, paused_at,
        next_planned_at, next_due_at, updated_by, origin)
    VALUES (
        :id, :tenant_id, :name, CAST(:spec AS jsonb), :kind, :queue, CAST(:payload AS json), :priority, :tags,
        :max_attempts, :crash_limit, :lost_limit, :limit_keys, :limit_units, :start_within_seconds, :jitter_seconds,
        :overlap, :missed, :catch_up, :start_at, :end_at, :anchor_at,
        CASE WHEN :paused THEN clock_timestamp() END, :next_planned_at, :next_due_at,
        :by, :origin)
    ON CONFLICT (tenant_id, name) DO UPDATE SET
        spec = excluded.spec, kind = excluded.kind, queue = excluded.queue, payload = excluded.payload,
        priority = excluded.priority, tags = excluded.tags, max_attempts = excluded.max_attempts,
        crash_limit = excluded.crash_limit, lost_limit = excluded.lost_limit, limit_keys = excluded.limit_keys,
        limit_units = excluded.limit_units, start_within_seconds = excluded.start_within_seconds,
        jitter_seconds = excluded.jitter_seconds,
        overlap = excluded.overlap, missed = excluded.missed, catch_up = excluded.catch_up,
        start_at = excluded.start_at, end_at = excluded.end_at, anchor_at = excluded.anchor_at,
        paused_at = CASE WHEN :paused THEN coalesce(schedules.paused_at, excluded.paused_at) END,
        next_planned_at = excluded.next_planned_at, next_due_at = excluded.next_due_at,
        updated_at = clock_timestamp(), updated_by = excluded.updated_by, origin = excluded.origin
    """
)


def put_schedule(connection: Connection, values: dict[str, Any]) -> None:
    """Create or replace a schedule by name; its id and history are kept."""
    connection.execute(
        _PUT,
        {**values, "spec": orjson.dumps(values["spec"]).decode(), "payload": orjson.dumps(values["payload"]).decode()},
    )


def move_to_queue(connection: Connection, schedule_id: UUID, queue: str) -> None:
    """Let a schedule's jobs go to another queue from its next fire on."""
    connection.execute(text("UPDATE schedules SET queue = :queue WHERE id = :id"), {"queue": queue, "id": schedule_id})


def set_paused(
    connection: Connection,
    schedule_id: UUID,
    paused: bool,
    planned_at: datetime | None,
    due_at: datetime | None,
    by: str,
) -> None:
    """Pause or resume a schedule, with its next times."""
    connection.execute(
        text(
            "UPDATE schedules SET paused_at = CASE WHEN :paused THEN coalesce(paused_at, clock_timestamp()) END, "
            "next_planned_at = :planned_at, next_due_at = :due_at, updated_at = clock_timestamp(), updated_by = :by "
            "WHERE id = :id"
        ),
        {"id": schedule_id, "paused": paused, "planned_at": planned_at, "due_at": due_at, "by": by},
    )


def delete_schedule(connection: Connection, tenant_id: UUID, name: str) -> bool:
    """Delete a schedule; its jobs stay, and the clean-up deletes its fires. False if it does not exist."""
    statement = text("DELETE FROM schedules WHERE tenant_id = :t AND name = :n")
    return connection.execute(statement, {"t": tenant_id, "n": name}).rowcount == 1


def delete_others(connection: Connection, tenant_id: UUID, origin: str, names: Sequence[str]) -> int:
    """Delete the schedules of a tenant with an origin, except these names; returns how many."""
    return connection.execute(
        text("DELETE FROM schedules WHERE tenant_id = :t AND origin = :origin AND name <> ALL (:names)"),
        {"t": tenant_id, "origin": origin, "names": list(names)},
    ).rowcount


def fires_of(connection: Connection, schedule_id: UUID, before: datetime | None, limit: int) -> Sequence[Row[Any]]:
    """Return the fires of a schedule, newest first, of planned times before a moment."""
    statement = text(
        "SELECT planned_at, at, outcome, by, job_id, missed_until FROM schedule_fires WHERE schedule_id = :id "
        "AND (CAST(:before AS timestamptz) IS NULL OR planned_at < :before) ORDER BY planned_at DESC LIMIT :limit"
    )
    return connection.execute(statement, {"id": schedule_id, "before": before, "limit": limit}).all()


def forget_fires(connection: Connection, days: float, limit: int = 1000) -> int:
    """Delete old fires that are not queued; returns how many."""
    statement = text(
        "DELETE FROM schedule_fires WHERE ctid IN (SELECT ctid FROM schedule_fires "
        "WHERE at < clock_timestamp() - make_interval(secs => :seconds) AND outcome <> 'queued' "
        "OR NOT EXISTS (SELECT 1 FROM schedules s WHERE s.id = schedule_id) LIMIT :limit)"
    )
    return connection.execute(statement, {"seconds": 86_400 * days, "limit": limit}).rowcount
