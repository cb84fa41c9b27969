"""`jobplatform workers`: the workers and their state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobplatform.cli import options, output
from jobplatform.cli.ledger import create_login, open_commands_ledger, password_options

if TYPE_CHECKING:
    from sqlalchemy import Connection


@click.group()
def workers() -> None:
    """List workers, and create their database login. Needs the database."""


@workers.command("list")
@click.option("--all", "everyone", is_flag=True, help="include workers that ended within the last week")
@options.json_option
def list_workers(everyone: bool, as_json: bool) -> None:
    """List workers: their queues, busy slots, and last heartbeat."""
    from rich.table import Table

    from jobplatform.config import settings
    from jobplatform.ledger.workers import list_workers as read

    with open_commands_ledger().statement() as connection:
        rows = [dict(row._mapping) for row in read(connection, settings().lease_seconds, everyone=everyone)]
    if as_json:
        output.print_json(rows)
        return
    table = Table("worker", "queues", "kinds", "pool", "slots", "began", "beat", "state")
    for item in rows:
        beat = f"{item['silent_seconds']:.1f} s ago"
        slots = f"{item['running']} of {item['slots']}"
        colour = "green" if item["state"] == "alive" else "red" if item["state"] == "lost" else "dim"
        queues, kinds = ", ".join(item["queues"]), ", ".join(item["kinds"])
        row = (item["node"], queues, kinds, item["pool"], slots, output.when(item["started_at"]), beat)
        table.add_row(*map(output.plain, row), f"[{colour}]{item['state']}[/]")
    output.print_table(table)


@workers.command()
@password_options
def login(name: str, password_file: Path | None) -> None:
    """Create the Postgres login NAME for workers: it reads and writes jobs, but no tables, keys or audit log."""
    from jobplatform.ledger.logins import WORKER_GROUP, put_login

    def put(connection: Connection, name: str, password: str) -> None:
        put_login(connection, name, password, WORKER_GROUP, {})

    create_login(name, password_file, put, "is a login for workers")
