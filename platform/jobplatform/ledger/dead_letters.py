"""Queries on dead letters: jobs that need a person. They are live jobs; see `sql/65_replay_job.sql`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, text

from jobplatform.ledger.jobs import earliest_end

_REPLAY = text("SELECT verdict, state FROM replay_job(:tenant_id, :id, :since, :delay, CAST(:data AS jsonb))")
_DISCARD = text("SELECT verdict, state FROM discard_job(:tenant_id, :id, :since, :reason, CAST(:data AS jsonb))")


def replay_job(
    connection: Connection, tenant_id: UUID, job_id: UUID, delay_seconds: float, data: dict[str, Any]
) -> tuple[str, str | None]:
    """Call `replay_job`; returns its verdict and the state. `data` says who and why, in the event."""
    values = {"tenant_id": tenant_id, "id": job_id, "since": earliest_end(job_id), "data": orjson.dumps(data).decode()}
    row = connection.execute(_REPLAY, {**values, "delay": delay_seconds}).one()
    return row.verdict, row.state


def discard_job(
    connection: Connection, tenant_id: UUID, job_id: UUID, reason: str, data: dict[str, Any]
) -> tuple[str, str | None]:
    """Call `discard_job`; returns its verdict and the state."""
    values = {"tenant_id": tenant_id, "id": job_id, "since": earliest_end(job_id), "data": orjson.dumps(data).decode()}
    row = connection.execute(_DISCARD, {**values, "reason": reason}).one()
    return row.verdict, row.state
