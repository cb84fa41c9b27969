"""State of the Postgres server: version, clock, mode, grants, connections, open transactions, dead rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

_MODE = text(
    "SELECT pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') = 'on' AS is_read_only"
)
_OTHER_CREATORS = text(
    """
    SELECT DISTINCT coalesce(r.rolname, 'PUBLIC')
    FROM pg_namespace n CROSS JOIN aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = current_schema() AND a.privilege_type = 'CREATE'
        AND a.grantee NOT IN (n.nspowner, (SELECT oid FROM pg_roles WHERE rolname = current_user))
        AND coalesce(r.rolname, '') <> 'pg_database_owner' AND NOT coalesce(r.rolsuper, false)
    ORDER BY 1
    """
)
_USE = text(
    """
    SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
           current_setting('max_connections')::integer AS max_connections,
           (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = to_regclass('jobs')) AS dead_jobs,
           (SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = to_regclass('jobs')) AS live_jobs
    """
)
_OLDEST_SNAPSHOT = text(
    """
    SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::integer AS seconds
    FROM pg_stat_activity
    WHERE backend_xmin IS NOT NULL AND datname = current_database() AND xact_start IS NOT NULL
    ORDER BY xact_start LIMIT 1
    """
)


def version(connection: Connection) -> str:
    """Return the server's version."""
    return str(connection.execute(text("SHOW server_version")).scalar_one())


def now(connection: Connection) -> datetime:
    """Return the server's clock."""
    result: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return result


def read_mode(connection: Connection) -> Row[Any]:
    """Return is_standby and is_read_only; a standby is read-only, too."""
    return connection.execute(_MODE).one()


def other_creators(connection: Connection) -> tuple[str, Sequence[str]]:
    """Return the ledger's schema, quoted, and the roles other than its owner that may create functions in it."""
    schema = connection.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
    return str(schema), connection.execute(_OTHER_CREATORS).scalars().all()


def read_use(connection: Connection) -> Row[Any]:
    """Return connections, max_connections, and dead_jobs and live_jobs, None before there are statistics."""
    return connection.execute(_USE).one()


def oldest_snapshot(connection: Connection) -> Row[Any] | None:
    """Return pid, application_name and seconds of the oldest transaction that keeps VACUUM from removing dead rows."""
    return connection.execute(_OLDEST_SNAPSHOT).one_or_none()
