"""Queries on dead letters: jobs that need an operator. They are live jobs; see `sql/65_replay_job.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

from jobplatform.ledger.jobs import MAX_EXAMINED, ask_of_job

_REPLAY_ONE = text("SELECT verdict, state FROM replay_job(:tenant_id, :id, :since, :delay, CAST(:data AS jsonb))")
_DISCARD = text("SELECT verdict, state FROM discard_job(:tenant_id, :id, :since, :reason, CAST(:data AS jsonb))")


def replay_job(
    connection: Connection, tenant_id: UUID, job_id: UUID, delay_seconds: float, data: dict[str, Any]
) -> tuple[str, str | None]:
    """Call `replay_job`; returns its verdict and the state. `data`: caller and reason, stored with the event."""
    encoded = orjson.dumps(data).decode()
    return ask_of_job(connection, _REPLAY_ONE, tenant_id, job_id, delay=delay_seconds, data=encoded)


def discard_job(
    connection: Connection, tenant_id: UUID, job_id: UUID, reason: str, data: dict[str, Any]
) -> tuple[str, str | None]:
    """Call `discard_job`; returns its verdict and the state."""
    return ask_of_job(connection, _DISCARD, tenant_id, job_id, reason=reason, data=orjson.dumps(data).decode())


_CHOSEN = (
    "tenant_id = :tenant_id AND state = 'dead' AND state IN ('dead', 'held') "
    "AND (CAST(:kind AS text) IS NULL OR kind = :kind) AND (CAST(:queue AS text) IS NULL OR queue = :queue) "
    "AND (CAST(:code AS text) IS NULL OR error ->> 'code' = :code) "
    "AND (CAST(:tag AS text) IS NULL OR :tag = ANY (tags)) "
    "AND (CAST(:died_after AS timestamptz) IS NULL OR state_at >= :died_after) "
    "AND (CAST(:died_before AS timestamptz) IS NULL OR state_at < :died_before)"
)
_PREVIEW = text(
    f"""
    SELECT kind, queue, code, count(*)::integer AS jobs, min(died_at) AS first_died_at, max(died_at) AS last_died_at
    FROM (
        SELECT kind, queue, error ->> 'code' AS code, state_at AS died_at FROM jobs
        WHERE {_CHOSEN} ORDER BY id LIMIT :limit) AS chosen
    GROUP BY kind, queue, code ORDER BY jobs DESC, kind, code
    """
)
_LIST = text(
    f"""
    WITH examined AS MATERIALIZED (
        SELECT * FROM jobs WHERE tenant_id = :tenant_id AND state IN ('dead', 'held')
            AND (CAST(:below AS uuid) IS NULL OR id < :below)
        ORDER BY id DESC LIMIT :examined)
    SELECT id, kind, queue, error ->> 'code' AS code, error ->> 'message' AS message, attempt, max_attempts,
           crash_count AS crashes, lost_count AS losses, priority, tags, created_at, state_at AS died_at, workflow_id
    FROM examined WHERE {_CHOSEN} ORDER BY id DESC LIMIT :limit
    """
)
_EDGE = text(
    "SELECT min(id::text) AS edge, count(*) AS seen FROM (SELECT id FROM jobs WHERE tenant_id = :tenant_id "
    "AND state IN ('dead', 'held') AND (CAST(:below AS uuid) IS NULL OR id < :below) "
    "ORDER BY id DESC LIMIT :examined) AS examined"
)


def list_dead_letters(
    connection: Connection, tenant_id: UUID, wanted: dict[str, Any], *, below: UUID | None, limit: int
) -> tuple[Sequence[Row[Any]], UUID | None]:
    """Return a page of dead letters, newest first, and the cursor of the next page; reads at most `MAX_EXAMINED`."""
    values = {"tenant_id": tenant_id, "below": below, "examined": MAX_EXAMINED, **wanted}
    rows = connection.execute(_LIST, {**values, "limit": limit}).all()
    if len(rows) == limit:
        return rows, rows[-1].id
    edge = connection.execute(_EDGE, values).one()
    return rows, UUID(edge.edge) if edge.seen == MAX_EXAMINED else None


_REPLAY_MANY = text(
    "SELECT replay_many(:id, :tenant_id, :kind, :queue, :code, :tag, :died_after, :died_before, :limit, :rate, "
    ":stop_after, :by, CAST(:filter AS jsonb))"
)


def preview(connection: Connection, tenant_id: UUID, wanted: dict[str, Any], limit: int) -> Sequence[Row[Any]]:
    """Return kind, queue, code, jobs, first_died_at, last_died_at of the jobs that a replay would include, at most
    `limit`."""
    return connection.execute(_PREVIEW, {"tenant_id": tenant_id, "limit": limit, **wanted}).all()


def replay_many(
    connection: Connection,
    replay_id: UUID,
    tenant_id: UUID,
    wanted: dict[str, Any],
    *,
    limit: int,
    rate_per_second: float | None,
    stop_after: int | None,
    by: str,
) -> int:
    """Call `replay_many`; returns how many jobs it took. `wanted`: kind, queue, code, tag, died_after, died_before."""
    shown = {name: value for name, value in wanted.items() if value is not None}
    values = {"id": replay_id, "tenant_id": tenant_id, "limit": limit, "rate": rate_per_second, **wanted}
    more = {"stop_after": stop_after, "by": by, "filter": orjson.dumps(shown).decode()}
    return int(connection.execute(_REPLAY_MANY, values | more).scalar_one())


def watch_replays(connection: Connection) -> Sequence[Row[Any]]:
    """Call `watch_replays`; returns id, state, died_again, stopped of those that ended now."""
    return connection.execute(text("SELECT id, state, died_again, stopped FROM watch_replays()")).all()


_REPLAY = (
    "SELECT id, state, filter, chosen, rate_per_second, stop_after, died_again, stopped, created_by, created_at, "
    "ended_at FROM replays WHERE tenant_id = :tenant_id"
)


def get_replay(connection: Connection, tenant_id: UUID, replay_id: UUID) -> Row[Any] | None:
    """Return a replay with its progress."""
    return connection.execute(text(f"{_REPLAY} AND id = :id"), {"tenant_id": tenant_id, "id": replay_id}).one_or_none()


def forget_replays(connection: Connection, days: int = 30) -> None:
    """Delete replays that ended long ago."""
    connection.execute(
        text(
            "WITH old AS (DELETE FROM replays WHERE ended_at < clock_timestamp() - make_interval(days => :days) "
            "RETURNING id) DELETE FROM replay_jobs WHERE replay_id IN (SELECT id FROM old)"
        ),
        {"days": days},
    )
