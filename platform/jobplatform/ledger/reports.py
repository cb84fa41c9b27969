"""SQL reporting: the schema `reporting`, roles that can only read it, and ten prepared queries."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from sqlalchemy import Connection, text

from jobplatform.ledger.logins import put_login

#: time-outs of report statements and idle transactions: long snapshots delay vacuum
STATEMENT_TIMEOUT, IDLE_TIMEOUT = "60s", "60s"
GROUP = "jobplatform_reporting"


@dataclass(frozen=True)
class Question:
    """A prepared query: its short name, the question it answers, and its SQL."""

    name: str
    question: str
    sql: str


def view_scripts() -> list[str]:
    """Return the SQL of schema, views and group role, in their order."""
    folder = resources.files("jobplatform.ledger") / "reporting"
    return [f.read_text() for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".sql")]


def questions() -> list[Question]:
    """Return the prepared queries."""
    folder = resources.files("jobplatform.ledger") / "reporting" / "questions"
    result = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            first, _, sql = file.read_text().partition("\n")
            result.append(Question(file.name[3:-4], first.removeprefix("-- "), sql.strip()))
    return result


def ask(connection: Connection, question: Question) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the column names and rows of a question."""
    connection.execute(text("SET search_path TO reporting"))
    answer = connection.exec_driver_sql(question.sql)
    return list(answer.keys()), [tuple(row) for row in answer]


def put_reader(connection: Connection, name: str, password: str) -> None:
    """Create a login that may read `reporting` and nothing else; or give it a new password. Raises as `put_login`."""
    settings = {
        "statement_timeout": STATEMENT_TIMEOUT,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
        "default_transaction_read_only": "on",
        "search_path": "reporting",
    }
    put_login(connection, name, password, GROUP, settings)
