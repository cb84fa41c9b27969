"""Queries on limits, tenants' weights and quotas (docs/concepts/limits.md)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from jobplatform.ledger.session import Ledger


def weights(connection: Connection) -> Mapping[str, float]:
    """Return tenant id → weight of those that have another than 1."""
    rows = connection.execute(text("SELECT id::text, weight FROM tenants WHERE weight <> 1"))
    return {row.id: row.weight for row in rows}


def names(connection: Connection) -> frozenset[str]:
    """Return the names of limits, and the keys that are held."""
    rows = connection.execute(
        text("SELECT name FROM limits UNION ALL SELECT key FROM limit_states WHERE held_until > clock_timestamp()")
    )
    return frozenset(row.name for row in rows)


def acquire(ledger: Ledger, job_id: UUID, lease_id: UUID, key: str, units: int) -> tuple[str, float | None]:
    """Call `acquire_units`; returns its verdict and how many seconds to wait."""
    ((verdict, seconds),) = ledger.call("acquire_units", job_id, lease_id, key, units)
    return verdict, seconds


def hold(ledger: Ledger, key: str, seconds: float, reason: str, *, exactly: bool = False) -> datetime:
    """Let nothing of a key begin for so long; returns until when. `exactly`: an earlier hold that is longer ends, too."""
    ((until,),) = ledger.call("hold_key", key, seconds, reason, exactly)
    found: datetime = until
    return found
