"""Shared parts of the table definitions: the metadata, and common columns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, MetaData, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def moment(name: str, **options: Any) -> Column[Any]:
    """Return a column with a time."""
    return Column(name, DateTime(timezone=True), **options)


def now(name: str) -> Column[Any]:
    """Return a column with the time at which its row was written."""
    return moment(name, nullable=False, server_default=text("clock_timestamp()"))


def one_of(column: str, words: Any) -> str:
    """Return the condition that a column has one of these values."""
    return f"{column} IN ({', '.join(repr(str(word)) for word in sorted(words))})"
