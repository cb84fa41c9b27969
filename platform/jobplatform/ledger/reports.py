"""SQL reporting: the schema `reporting`, roles that may read it and nothing else, and ten ready questions."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg2.extensions
import psycopg2.sql
from sqlalchemy import Connection, text

from jobplatform.errors import ConfigurationError

#: how long a report may run, and an open transaction may do nothing: long snapshots cost everybody
STATEMENT_TIMEOUT, IDLE_TIMEOUT = "60s", "60s"
GROUP = "jobplatform_reporting"


@dataclass(frozen=True)
class Question:
    """A ready question: its short name, the question, and its SQL."""

    name: str
    question: str
    sql: str


def view_scripts() -> list[str]:
    """Return the SQL of schema, views and group role, in their order."""
    folder = resources.files("jobplatform.ledger") / "reporting"
    return [f.read_text() for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".sql")]


def questions() -> list[Question]:
    """Return the ready questions."""
    folder = resources.files("jobplatform.ledger") / "reporting" / "questions"
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            first, _, sql = file.read_text().partition("\n")
            found.append(Question(file.name[3:-4], first.removeprefix("-- "), sql.strip()))
    return found


def ask(connection: Connection, question: Question) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the column names and rows of a question."""
    connection.execute(text("SET search_path TO reporting"))
    answer = connection.exec_driver_sql(question.sql)
    return list(answer.keys()), [tuple(row) for row in answer]


def put_reader(connection: Connection, name: str, password: str) -> None:
    """Create a login that may read `reporting` and nothing else; or give it a new password.

    Raises `ConfigurationError` when the name is that of another role.
    """
    driver: Any = connection.connection.dbapi_connection
    role, group = psycopg2.sql.Identifier(name), psycopg2.sql.Identifier(GROUP)
    # a verifier and not the password: a statement that fails is logged by the server
    verifier = psycopg2.extensions.encrypt_password(password, name, driver, "scram-sha-256")
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT pg_has_role(r.oid, g.oid, 'MEMBER') AND NOT r.rolsuper AND r.rolname <> current_user "
            "FROM pg_roles r, pg_roles g WHERE r.rolname = %s AND g.rolname = %s",
            (name, GROUP),
        )
        found = cursor.fetchone()
        if found is not None and not found[0]:
            raise ConfigurationError(
                f"role {name!r} is no login for reports: expected a new name, or one that this command made"
            )
        verb = "ALTER" if found else "CREATE"
        cursor.execute(psycopg2.sql.SQL(f"{verb} ROLE {{}} LOGIN PASSWORD %s").format(role), (verifier,))
        cursor.execute(psycopg2.sql.SQL("GRANT {} TO {}").format(group, role))
        for setting, value in (
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_TIMEOUT),
            ("default_transaction_read_only", "on"),
            ("search_path", "reporting"),
        ):
            statement = psycopg2.sql.SQL("ALTER ROLE {} SET {} = %s")
            cursor.execute(statement.format(role, psycopg2.sql.Identifier(setting)), (value,))
