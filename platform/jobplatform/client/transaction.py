"""Submit in your own transaction: the job is accepted if and only if the transaction commits.

See docs/howto/own-transaction.md.

The ledger must be in the same database as your tables. It needs SQLAlchemy, and no other part of the platform.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from jobplatform.client.errors import problem_of
from jobplatform.errors import all_errors

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Submitted:
    """A job that exists once the transaction commits; `created` False: its key belongs to an earlier job."""

    id: UUID
    created: bool


def submit(
    session: Session | Connection,
    kind: str,
    payload: Mapping[str, Any] | None = None,
    *,
    key: str,
    priority: int = 4,
    run_at: datetime | None = None,
    start_by: datetime | None = None,
    max_attempts: int | None = None,
    tags: Sequence[str] = (),
    unique: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    schema: str | None = None,
) -> Submitted:
    """Submit a job in the transaction of this session or connection.

    `key` is an API key: its tenant, scopes, kinds and quotas apply as in the API. A payload that violates the kind's
    schema becomes a dead letter (`invalid_payload`) soon after the commit. `schema`: the ledger's schema, when the
    search path does not include it.

    Raises `Unauthorized`, `Forbidden`, `Invalid`, `Conflict` or `TooManyRequests`, with nothing submitted; the
    transaction stays usable and may still be committed.
    """
    values = _values(key, kind, payload, priority, run_at, start_by, max_attempts, tags, unique, idempotency_key)
    return _read(session.execute(_statement(schema), values).one())


async def submit_async(
    session: AsyncSession | AsyncConnection,
    kind: str,
    payload: Mapping[str, Any] | None = None,
    *,
    key: str,
    priority: int = 4,
    run_at: datetime | None = None,
    start_by: datetime | None = None,
    max_attempts: int | None = None,
    tags: Sequence[str] = (),
    unique: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    schema: str | None = None,
) -> Submitted:
    """`submit` for an async session or connection."""
    values = _values(key, kind, payload, priority, run_at, start_by, max_attempts, tags, unique, idempotency_key)
    return _read((await session.execute(_statement(schema), values)).one())


def _statement(schema: str | None) -> TextClause:
    from sqlalchemy import text

    where = f'"{schema.replace(chr(34), chr(34) * 2)}".' if schema else ""
    return text(
        f"SELECT job_id, created, code, detail FROM {where}submit_job("
        "CAST(:key_hash AS text), CAST(:kind AS text), CAST(:payload AS json), CAST(:priority AS integer), "
        "CAST(:run_at AS timestamptz), CAST(:start_by AS timestamptz), CAST(:max_attempts AS integer), "
        "CAST(:tags AS text[]), CAST(:idempotency_key AS text), CAST(:unique_key AS text), "
        "CAST(:unique_seconds AS double precision), CAST(:unique_refuse AS boolean))"
    )


def _values(
    key: str,
    kind: str,
    payload: Mapping[str, Any] | None,
    priority: int,
    run_at: datetime | None,
    start_by: datetime | None,
    max_attempts: int | None,
    tags: Sequence[str],
    unique: Mapping[str, Any] | None,
    idempotency_key: str | None,
) -> dict[str, Any]:
    for name, moment in (("run_at", run_at), ("start_by", start_by)):
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"{name}: expected a time with a zone, got {moment.isoformat()}")
    wanted = dict(unique or {})
    values: dict[str, Any] = {
        # the key itself would appear in the server's logs, and in the message of every error
        "key_hash": hashlib.sha256(key.encode()).hexdigest(),
        "kind": kind,
        "payload": json.dumps(payload or {}),
        "priority": priority,
        "run_at": run_at,
        "start_by": start_by,
        "max_attempts": max_attempts,
        "tags": list(tags),
        "idempotency_key": idempotency_key,
        "unique_key": wanted.pop("key", None),
        "unique_seconds": wanted.pop("seconds", None),
    }
    on_conflict = wanted.pop("on_conflict", "existing")
    if wanted or on_conflict not in ("existing", "refuse") or (unique is not None and values["unique_key"] is None):
        raise ValueError(
            "unique: expected key, and seconds and on_conflict (existing or refuse) if need be; got "
            f"{dict(unique or {})}"
        )
    values["unique_refuse"] = on_conflict == "refuse"
    return values


def _read(row: Any) -> Submitted:
    if row.code is not None:
        status = next((error.status for error in all_errors() if error.code == row.code), 422)
        raise problem_of(status, {"code": row.code, "detail": row.detail}, None)
    return Submitted(UUID(str(row.job_id)), row.created)
