"""Retention: delete partitions of history, uploads, artifacts and locks past their retention period."""

from __future__ import annotations

from sqlalchemy import Connection, text

from jobplatform.ledger.tables import PARTITION_DAYS, PARTITIONED

_PARTITIONS = text(
    """
    SELECT child.relname AS name, parent.relname AS of
    FROM pg_inherits i JOIN pg_class child ON child.oid = i.inhrelid JOIN pg_class parent ON parent.oid = i.inhparent
    WHERE parent.relname = ANY (:parents) AND child.relname ~ '_[0-9]{8}$'
        AND to_date(right(child.relname, 8), 'YYYYMMDD') + CAST(:days AS integer)
            < current_date - CAST(:keep AS integer)
        -- results that a workflow may refer to still
        AND to_date(right(child.relname, 8), 'YYYYMMDD') + CAST(:days AS integer) < coalesce(
            (SELECT min(created_at) - interval '1 day' FROM workflows WHERE ended_at IS NULL), 'infinity')
    ORDER BY child.relname
    """
)


def old_partitions(connection: Connection, keep_days: int) -> list[str]:
    """Return the partitions of history, runs and events that are past their retention."""
    rows = connection.execute(_PARTITIONS, {"parents": list(PARTITIONED), "days": PARTITION_DAYS, "keep": keep_days})
    return [row.name for row in rows]


def drop_partition(connection: Connection, name: str) -> None:
    """Call `drop_partition`. Raises `LedgerBusy` while the partition is being read."""
    connection.execute(text("SELECT drop_partition(:name)"), {"name": name})


_FILES = text(
    """
    WITH named AS MATERIALIZED (  -- in the payloads of jobs and schedules, of tenants that have old uploads
        SELECT DISTINCT CAST(found[1] AS uuid) AS id FROM (
            SELECT payload FROM jobs WHERE :uploads AND tenant_id IN (
                SELECT tenant_id FROM artifacts WHERE job_id IS NULL
                    AND created_at < clock_timestamp() - make_interval(days => :days))
            UNION ALL SELECT payload FROM schedules WHERE :uploads) AS given,
            regexp_matches(lower(payload::text), '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', 'g')
                AS found
    ), old AS (
        SELECT id FROM artifacts
        WHERE id NOT IN (SELECT id FROM named) AND created_at < coalesce(
                (SELECT min(created_at) FROM workflows WHERE ended_at IS NULL AND NOT :uploads), 'infinity')
            AND created_at < clock_timestamp() - make_interval(days => :days) AND (job_id IS NULL) = :uploads
            AND (job_id IS NULL OR NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id))
        ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM artifacts WHERE id IN (SELECT id FROM old) RETURNING location
    ), noted AS (
        INSERT INTO artifact_removals (location) SELECT location FROM gone ON CONFLICT DO NOTHING
    )
    SELECT count(*)::integer FROM gone
    """
)


def forget_files(connection: Connection, days: int, *, uploads: bool, limit: int = 1000) -> int:
    """Delete records of uploads, or of outputs of ended jobs, older than this many days; workers remove the files."""
    return int(connection.execute(_FILES, {"days": days, "uploads": uploads, "limit": limit}).scalar_one())


def delete_free_locks(connection: Connection, limit: int) -> int:
    """Delete locks of limit keys that no transaction has: there is one for each key that was ever used."""
    statement = text(
        "DELETE FROM locks WHERE name IN "
        "(SELECT name FROM locks WHERE name LIKE 'limit/%' LIMIT :limit FOR UPDATE SKIP LOCKED)"
    )
    return connection.execute(statement, {"limit": limit}).rowcount
