"""What commands print: JSON for programs, tables for people."""

from __future__ import annotations

import os
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print JSON."""
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z, default=str))


def print_table(table: Any) -> None:
    """Print a table of rich; into a pipe without colours, and wide enough for every column."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=240)
    console.print(table)


def when(moment: Any) -> str:
    """Return a datetime, or the API's text of one, as text in UTC; "" for None."""
    from datetime import UTC, datetime

    if moment is None:
        return ""
    parsed = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{parsed.astimezone(UTC):%F %T}Z"


def plain(value: object) -> str:
    """Return text in which rich finds no markup."""
    from rich.markup import escape

    return escape("" if value is None else str(value))
