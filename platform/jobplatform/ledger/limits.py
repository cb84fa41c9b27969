"""Queries on limits, tenants' weights and quotas (docs/concepts/limits.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from jobplatform.domain.limits import Limit
from jobplatform.ledger.session import Ledger


def weights(connection: Connection) -> Mapping[str, float]:
    """Return tenant id → weight, of tenants whose weight is not 1."""
    rows = connection.execute(text("SELECT id::text, weight FROM tenants WHERE weight <> 1"))
    return {row.id: row.weight for row in rows}


def names(connection: Connection) -> frozenset[str]:
    """Return the names of limits, and the paused keys."""
    rows = connection.execute(
        text("SELECT name FROM limits UNION ALL SELECT key FROM limit_states WHERE paused_until > clock_timestamp()")
    )
    return frozenset(row.name for row in rows)


def acquire(ledger: Ledger, job_id: UUID, lease_id: UUID, key: str, units: int) -> tuple[str, float | None]:
    """Call `acquire_units`; returns its verdict and how many seconds to wait."""
    ((verdict, seconds),) = ledger.call("acquire_units", job_id, lease_id, key, units)
    return verdict, seconds


def pause_key_by_run(ledger: Ledger, job_id: UUID, lease_id: UUID, key: str, seconds: float, reason: str) -> bool:
    """Call `pause_key_by_run`; False: the lease is lost."""
    ((held,),) = ledger.call("pause_key_by_run", job_id, lease_id, key, seconds, reason)
    return bool(held)


def pause_key(ledger: Ledger, key: str, seconds: float, reason: str, *, exactly: bool = False) -> datetime:
    """Pause a limit key; returns until when. `exactly`: may shorten an earlier pause."""
    ((until,),) = ledger.call("pause_key", key, seconds, reason, exactly)
    result: datetime = until
    return result


_COLUMNS = "name, max_concurrent, rate_units, rate_seconds, burst_units, sliding"
_PUT = text(
    f"""
    INSERT INTO limits ({_COLUMNS}, updated_by)
    VALUES (:name, :max_concurrent, :rate_units, :rate_seconds, :burst_units, :sliding, :by)
    ON CONFLICT (name) DO UPDATE SET
        max_concurrent = excluded.max_concurrent, rate_units = excluded.rate_units,
        rate_seconds = excluded.rate_seconds, burst_units = excluded.burst_units, sliding = excluded.sliding,
        updated_at = clock_timestamp(), updated_by = excluded.updated_by
    """
)


def put_limit(connection: Connection, limit: Limit, by: str) -> None:
    """Create or replace a limit. Units in use stay in use."""
    connection.execute(_PUT, asdict(limit) | {"by": by})


def remove_limit(connection: Connection, name: str) -> bool:
    """Remove a limit; False when there is none of this name."""
    return connection.execute(text("DELETE FROM limits WHERE name = :n"), {"n": name}).rowcount == 1


def list_limits(connection: Connection) -> Sequence[Row[Any]]:
    """Return the definitions of all limits."""
    return connection.execute(text(f"SELECT {_COLUMNS}, updated_at, updated_by FROM limits ORDER BY name")).all()


def in_use(connection: Connection, lines: int) -> Sequence[Row[Any]]:
    """Call `limit_uses`: a row per key that has jobs or is paused."""
    return connection.execute(text("SELECT * FROM limit_uses(:lines)"), {"lines": lines}).all()


def capacity_of(connection: Connection, job: Row[Any]) -> Sequence[Row[Any]]:
    """Return the capacity of a job's keys: key, limit, jobs in flight, units left and reserved, pause."""
    values = {"keys": job.limit_keys, "job": job.id, "priority": job.priority}
    return connection.execute(_ROOM, values).all()


_ROOM = text(
    """
    SELECT l.key, l.max_concurrent, l.rate_units, l.rate_seconds, u.units AS units_left,
           coalesce(units_reserved(s, :job, :priority), 0) AS units_reserved,
           CASE WHEN s.paused_until > clock_timestamp() THEN s.paused_until END AS paused_until, s.paused_reason,
           (SELECT count(*)::integer FROM jobs WHERE state IN ('dispatched', 'running') AND limit_keys <> '{}'
            AND l.key = ANY (limit_keys)) AS out
    FROM limits_of(:keys) l LEFT JOIN limit_states s ON s.key = l.key
    LEFT JOIN LATERAL units_left(
        l.rate_units, l.rate_seconds, l.burst_units, l.sliding, s, 1, clock_timestamp()) u ON l.rate_units IS NOT NULL
    ORDER BY l.ordinality
    """
)


# --- tenants and quotas


def list_tenants(connection: Connection, after: str, limit: int) -> Sequence[Row[Any]]:
    """Return name and weight of tenants, in the order of their names."""
    statement = text("SELECT name, weight FROM tenants WHERE name > :after ORDER BY name LIMIT :limit")
    return connection.execute(statement, {"after": after, "limit": limit}).all()


def set_weight(connection: Connection, tenant: str, weight: float) -> bool:
    """Set a tenant's weight; False when there is no tenant of this name."""
    changed = connection.execute(
        text("UPDATE tenants SET weight = :weight WHERE name = :name"), {"name": tenant, "weight": weight}
    )
    return changed.rowcount == 1


def put_quota(connection: Connection, tenant: str, queue: str, max_waiting: int, by: str) -> None:
    """Write a quota; `*` stands for each tenant, or queue, without its own."""
    connection.execute(
        text(
            "INSERT INTO quotas (tenant, queue, max_waiting, updated_by) VALUES (:tenant, :queue, :most, :by) "
            "ON CONFLICT (tenant, queue) DO UPDATE SET max_waiting = excluded.max_waiting, "
            "updated_at = clock_timestamp(), updated_by = excluded.updated_by"
        ),
        {"tenant": tenant, "queue": queue, "most": max_waiting, "by": by},
    )


def remove_quota(connection: Connection, tenant: str, queue: str) -> bool:
    """Remove a quota; False when there is none."""
    removed = connection.execute(
        text("DELETE FROM quotas WHERE tenant = :tenant AND queue = :queue"), {"tenant": tenant, "queue": queue}
    )
    return removed.rowcount == 1


def list_quotas(connection: Connection) -> Sequence[Row[Any]]:
    """Return all quotas."""
    return connection.execute(
        text("SELECT tenant, queue, max_waiting, updated_at, updated_by FROM quotas ORDER BY tenant, queue")
    ).all()


_FORGET = text(
    """
    DELETE FROM limit_states WHERE key IN (
        SELECT s.key FROM limit_states s LEFT JOIN LATERAL limits_of(ARRAY[s.key]) l ON true
        WHERE coalesce(s.paused_until, '-infinity') < clock_timestamp()
            AND coalesce(greatest(s.level_at, s.slices_at), '-infinity') < clock_timestamp() - make_interval(
                secs => 86400 + coalesce(l.rate_seconds * greatest(1, l.burst_units / l.rate_units), 0))
        LIMIT :limit FOR UPDATE OF s SKIP LOCKED)
    """
)


def forget_states(connection: Connection, limit: int = 1000) -> int:
    """Delete the state of up to `limit` keys that are at full capacity and not paused; returns how many."""
    connection.execute(text("DELETE FROM quota_samples WHERE at < clock_timestamp() - interval '1 day'"))
    return connection.execute(_FORGET, {"limit": limit}).rowcount
