"""Queries on limits, tenants' weights and quotas (docs/concepts/limits.md)."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, text


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
