"""Queries on the effect journal; see `sql/55_effects.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

from jobplatform.ledger.jobs import ask_of_job
from jobplatform.ledger.session import Ledger

KEEP_DAYS = 90


def begin_effect(ledger: Ledger, job_id: UUID, lease_id: UUID, key: str, token: UUID, unknown: str) -> tuple[str, Any]:
    """Call `begin_effect`, one transaction; returns its verdict and the receipt."""
    (row,) = ledger.call("begin_effect", job_id, lease_id, key, token, unknown)
    return row[0], row[1]


# FOR SHARE: the run must still have its lease when this commits (I4)
_MINE = "WITH mine AS (SELECT id FROM jobs WHERE id = :job_id AND lease_id = :lease_id FOR SHARE)"
_DONE = text(
    f"{_MINE} UPDATE effects SET state = 'done', receipt = CAST(:receipt AS jsonb), done_at = clock_timestamp() "
    "FROM mine WHERE job_id = mine.id AND key = :key AND token = :token"
)
_UNDO = text(f"{_MINE} DELETE FROM effects USING mine WHERE job_id = mine.id AND key = :key AND token = :token")


def end_effect(connection: Connection, job_id: UUID, lease_id: UUID, key: str, token: UUID, receipt: Any) -> bool:
    """Store the receipt of an effect; False when the lease is lost."""
    values = {"job_id": job_id, "lease_id": lease_id, "key": key, "token": token}
    encoded = orjson.dumps(receipt).decode()
    return connection.execute(_DONE, {**values, "receipt": encoded}).rowcount == 1


def undo_effect(connection: Connection, job_id: UUID, lease_id: UUID, key: str, token: UUID) -> bool:
    """Withdraw an intent: the effect did not take place. False when the lease is lost."""
    values = {"job_id": job_id, "lease_id": lease_id, "key": key, "token": token}
    return connection.execute(_UNDO, values).rowcount == 1


_RESOLVE = text(
    "SELECT verdict, state FROM resolve_effect(:tenant_id, :id, :since, :key, :happened, CAST(:receipt AS jsonb), "
    "CAST(:data AS jsonb))"
)


def resolve_effect(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    key: str,
    *,
    happened: bool,
    receipt: Any,
    data: dict[str, Any],
) -> tuple[str, str | None]:
    """Call `resolve_effect`; returns its verdict and the job's state."""
    encoded = {"receipt": orjson.dumps(receipt).decode(), "data": orjson.dumps(data).decode()}
    return ask_of_job(connection, _RESOLVE, tenant_id, job_id, key=key, happened=happened, **encoded)


_LIST = text(
    "SELECT key, state, run_no, receipt, intended_at, done_at FROM effects "
    "WHERE job_id = :id AND tenant_id = :tenant_id ORDER BY intended_at LIMIT :limit"
)


def effects_of(connection: Connection, tenant_id: UUID, job_id: UUID, limit: int = 1000) -> Sequence[Row[Any]]:
    """Return a job's effects in the order in which they were intended."""
    return connection.execute(_LIST, {"id": job_id, "tenant_id": tenant_id, "limit": limit}).all()


_FORGET = text(
    """
    DELETE FROM effects WHERE (job_id, key) IN (
        SELECT e.job_id, e.key FROM effects e
        WHERE e.intended_at < clock_timestamp() - make_interval(days => :days)
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE id = e.job_id)
        ORDER BY e.intended_at LIMIT :limit)
    """
)


def forget_effects(connection: Connection, limit: int = 1000) -> int:
    """Delete effects of jobs that ended long ago; returns how many."""
    return connection.execute(_FORGET, {"days": KEEP_DAYS, "limit": limit}).rowcount
