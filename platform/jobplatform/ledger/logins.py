"""Postgres logins: each is a member of one group role, which grants its privileges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2.extensions
import psycopg2.sql
from sqlalchemy import Connection

from jobplatform.errors import ConfigurationError

#: made by sql/99_worker_role.sql
WORKER_GROUP = "jobplatform_worker"


def put_login(connection: Connection, name: str, password: str, group: str, settings: Mapping[str, str]) -> None:
    """Create a login in a group role, with settings of its sessions; or give it a new password.

    Raises `ConfigurationError` when the name is that of another role.
    """
    driver: Any = connection.connection.dbapi_connection
    role = psycopg2.sql.Identifier(name)
    # a verifier and not the password: a statement that fails is logged by the server
    verifier = psycopg2.extensions.encrypt_password(password, name, driver, "scram-sha-256")
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT pg_has_role(r.oid, g.oid, 'MEMBER') AND NOT r.rolsuper AND r.rolname <> current_user "
            "FROM pg_roles r, pg_roles g WHERE r.rolname = %s AND g.rolname = %s",
            (name, group),
        )
        row = cursor.fetchone()
        if row is not None and not row[0]:
            raise ConfigurationError(
                f"role {name!r} is not a login of {group}: expected a new name, or a login that this command created"
            )
        verb = "ALTER" if row else "CREATE"
        cursor.execute(psycopg2.sql.SQL(f"{verb} ROLE {{}} LOGIN PASSWORD %s").format(role), (verifier,))
        cursor.execute(psycopg2.sql.SQL("GRANT {} TO {}").format(psycopg2.sql.Identifier(group), role))
        for setting, value in settings.items():
            statement = psycopg2.sql.SQL("ALTER ROLE {} SET {} = %s")
            cursor.execute(statement.format(role, psycopg2.sql.Identifier(setting)), (value,))
