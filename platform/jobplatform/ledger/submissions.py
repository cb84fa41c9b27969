"""Jobs that were submitted in other transactions, and the kinds that can be; see `sql/38_submit_job.sql`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import Connection, text

from jobplatform.domain.kinds import Kind

_PUT = text(
    """
    INSERT INTO kinds AS k (name, queue, max_attempts, crash_limit, lost_limit)
    SELECT * FROM jsonb_to_recordset(CAST(:kinds AS jsonb)) AS given (
        name text, queue text, max_attempts integer, crash_limit integer, lost_limit integer)
    ORDER BY name
    ON CONFLICT (name) DO UPDATE SET
        queue = excluded.queue, max_attempts = excluded.max_attempts, crash_limit = excluded.crash_limit,
        lost_limit = excluded.lost_limit, seen_at = excluded.seen_at
    """
)


def put_kinds(connection: Connection, kinds: Iterable[Kind]) -> None:
    """Record the kinds that can be submitted, with their current definitions."""
    given = [
        {
            "name": kind.name,
            "queue": kind.queue,
            "max_attempts": kind.max_attempts,
            "crash_limit": kind.crash_limit,
            "lost_limit": kind.lost_limit,
        }
        for kind in kinds
    ]
    connection.execute(_PUT, {"kinds": orjson.dumps(given).decode()})


def put_settings(connection: Connection, *, max_body_bytes: int, idempotency_seconds: int) -> None:
    """Record the current settings that apply to submissions by SQL."""
    connection.execute(
        text(
            "UPDATE installation SET max_body_bytes = :bytes, idempotency_seconds = :seconds "
            "WHERE (max_body_bytes, idempotency_seconds) <> (:bytes, :seconds)"
        ),
        {"bytes": max_body_bytes, "seconds": idempotency_seconds},
    )


def forget_kinds(connection: Connection, seconds: float) -> int:
    """Delete kinds that no dispatcher has known for so long; returns how many."""
    return connection.execute(
        text("DELETE FROM kinds WHERE seen_at < clock_timestamp() - make_interval(secs => :s)"), {"s": seconds}
    ).rowcount


class UnvalidatedJob(NamedTuple):
    """A job whose payload is not validated yet, and the API key that submitted it."""

    id: UUID
    kind: str
    #: its JSON, as Postgres stores it: it may contain values that orjson can't read
    payload: str
    key_id: UUID | None


def unvalidated_jobs(connection: Connection, kinds: Sequence[str], limit: int) -> list[UnvalidatedJob]:
    """Return such jobs of these kinds, oldest first."""
    rows = connection.execute(
        text("SELECT * FROM unvalidated_jobs(CAST(:kinds AS text[]), :limit)"), {"kinds": list(kinds), "limit": limit}
    )
    return [
        UnvalidatedJob(UUID(row.job_id), row.kind, row.payload, UUID(row.key_id) if row.key_id else None)
        for row in rows
    ]


def release_validated_jobs(connection: Connection, checked: list[dict[str, Any]], keys: Iterable[UUID]) -> str:
    """Call `release_validated_jobs`: returns "queue priority,…" that got jobs."""
    result: str | None = connection.execute(
        text("SELECT release_validated_jobs(CAST(:checked AS jsonb), CAST(:keys AS uuid[]))"),
        {"checked": orjson.dumps(checked).decode(), "keys": list(keys)},
    ).scalar()
    return result or ""


def fold_counters(connection: Connection) -> int:
    """Call `fold_counters`: returns how many rows were folded."""
    return int(connection.execute(text("SELECT fold_counters()")).scalar_one())
