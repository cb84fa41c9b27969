"""Queries on dead messages: broker messages that belong to no live dispatch, stored with the reason (I6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

#: retention (days) and maximum number
KEEP_DAYS, KEEP_MESSAGES = 30, 1_000_000

_PUT = text(
    """
    INSERT INTO dead_messages (queue, reason, detail, job_id, dispatch_no, kind, message, body, body_bytes)
    VALUES (:queue, :reason, :detail, :job_id, :dispatch_no, :kind, CAST(:message AS jsonb), :body, :body_bytes)
    """
)


def put_dead_messages(connection: Connection, messages: Sequence[dict[str, Any]]) -> None:
    """Store dead messages; the keys are the columns, `message` a JSON value."""
    if messages:
        connection.execute(
            _PUT, [{**message, "message": orjson.dumps(message["message"]).decode()} for message in messages]
        )


_LOOK = text(
    """
    SELECT wanted.id, coalesce(j.state, h.state) AS state, coalesce(j.dispatch_no, h.dispatch_no) AS dispatch_no,
           coalesce(j.kind, h.kind) AS kind
    FROM unnest(CAST(:ids AS uuid[]), CAST(:since AS timestamptz[])) AS wanted (id, since)
    LEFT JOIN jobs j ON j.id = wanted.id
    LEFT JOIN LATERAL (
        SELECT state, dispatch_no, kind FROM job_history
        WHERE j.id IS NULL AND id = wanted.id AND finished_at >= wanted.since LIMIT 1) AS h ON true
    """
)


def look_up(connection: Connection, since: dict[UUID, Any]) -> dict[UUID, tuple[str, int, str]]:
    """Return id → (state, dispatch_no, kind) of those jobs that exist; `since` bounds their end (`earliest_end`)."""
    rows = connection.execute(_LOOK, {"ids": list(since), "since": list(since.values())})
    return {row.id: (row.state, row.dispatch_no, row.kind) for row in rows if row.state is not None}


def list_dead_messages(connection: Connection, below: int | None, limit: int, reason: str | None) -> Sequence[Row[Any]]:
    """Return dead messages, newest first, below an id."""
    where = ["true"]
    if below is not None:
        where.append("id < :below")
    if reason is not None:
        where.append("reason = :reason")
    return connection.execute(
        text(
            "SELECT id, at, queue, reason, detail, job_id, dispatch_no, kind, message, body_bytes "
            f"FROM dead_messages WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT :limit"
        ),
        {"below": below, "limit": limit, "reason": reason},
    ).all()


def get_dead_message(connection: Connection, message_id: int) -> Row[Any] | None:
    """Return a dead message with the first bytes of its body."""
    return connection.execute(text("SELECT * FROM dead_messages WHERE id = :id"), {"id": message_id}).one_or_none()


_FORGET = text(
    """
    DELETE FROM dead_messages WHERE id IN (
        SELECT id FROM dead_messages
        WHERE at < clock_timestamp() - make_interval(days => :days)
            OR id <= (SELECT max(id) FROM dead_messages) - :keep
        ORDER BY id LIMIT :limit)
    """
)


def forget_dead_messages(connection: Connection, limit: int = 1000) -> int:
    """Delete dead messages past their retention, or above the maximum number; returns how many."""
    return connection.execute(_FORGET, {"days": KEEP_DAYS, "keep": KEEP_MESSAGES, "limit": limit}).rowcount
