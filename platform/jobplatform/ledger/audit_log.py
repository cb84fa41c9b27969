"""The audit log: changes made with API keys, each recorded before it is made and completed after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.ledger.session import Ledger


def begin_action(
    ledger: Ledger, *, tenant_id: UUID, key_id: UUID, key_name: str, action: str, path: str, address: str | None
) -> int:
    """Record the start of a change; returns the id of its entry."""
    ((action_id,),) = ledger.call("begin_action", tenant_id, key_id, key_name, action, path, address)
    return int(action_id)


def end_action(ledger: Ledger, line: int, status: int, code: str | None) -> None:
    """Record the result of a change. An entry without a result has an unknown outcome."""
    ledger.call("end_action", line, status, code)


def list_actions(
    connection: Connection, tenant_id: UUID, *, before: int | None, key_id: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Return entries of a tenant, newest first."""
    return connection.execute(
        text(
            "SELECT id, at, key_id, key_name, action, path, address, status, code FROM audit_log "
            "WHERE tenant_id = :tenant AND (CAST(:before AS bigint) IS NULL OR id < :before) "
            "AND (CAST(:key AS uuid) IS NULL OR key_id = :key) ORDER BY id DESC LIMIT :limit"
        ),
        {"tenant": tenant_id, "before": before, "key": key_id, "limit": limit},
    ).all()


def forget_actions(connection: Connection, days: int, limit: int) -> int:
    """Delete up to `limit` entries older than `days`; returns how many."""
    return connection.execute(
        text(
            "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log "
            "WHERE at < clock_timestamp() - make_interval(days => :days) ORDER BY at LIMIT :limit "
            "FOR UPDATE SKIP LOCKED)"
        ),
        {"days": days, "limit": limit},
    ).rowcount
