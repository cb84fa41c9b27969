"""How large the ledger is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

_SIZES = text(
    """
    SELECT coalesce(parent.relname, c.relname) AS name,
           sum(greatest(c.reltuples, 0))::bigint AS rows, sum(pg_total_relation_size(c.oid))::bigint AS bytes,
           sum(pg_indexes_size(c.oid))::bigint AS index_bytes,
           count(*) FILTER (WHERE parent.oid IS NOT NULL)::integer AS partitions,
           coalesce(sum(s.n_dead_tup), 0)::bigint AS dead_rows,
           max(greatest(s.last_vacuum, s.last_autovacuum)) AS vacuumed_at
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
    GROUP BY 1 ORDER BY 3 DESC, 1
    """
)


def table_sizes(connection: Connection) -> list[dict[str, Any]]:
    """Return the tables, the largest first: name, rows (as the planner takes it), bytes, index_bytes, partitions,
    dead_rows, vacuumed_at."""
    return [dict(row._mapping) for row in connection.execute(_SIZES)]
