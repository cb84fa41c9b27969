"""`jobplatform queues`: list queues over HTTP; pause and resume them by the database."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.ledger import open_commands_ledger
from jobplatform.cli.options import MOMENT


@click.group()
def queues() -> None:
    """List queues (over HTTP); pause and resume them (database)."""


@queues.command("list")
@options.json_option
def list_queues(as_json: bool) -> None:
    """List queues with your waiting and running jobs, and their workers."""
    from rich.table import Table

    rows = http.call_api("GET", "/v1/queues")["queues"]
    if as_json:
        output.print_json(rows)
        return
    shown = ("waiting", "scheduled", "blocked", "dispatched", "running", "held", "dead")
    table = Table("queue", *shown, "accepted", "finished", "workers", "slots", "")
    for item in rows:
        more = " or more" if item["counts_are_capped"] else ""
        counted = ("scheduled", "blocked", "held", "dead")
        counts = [f"{item[name]:,}{more if name in counted and item[name] else ''}" for name in shown]
        counts += [f"{item[name]:,}" for name in ("accepted", "finished", "workers", "slots")]
        until = f" until {output.when(item['paused_until'])}" if item["paused_until"] else ""
        table.add_row(output.plain(item["name"]), *counts, f"[yellow]paused{until}[/]" if item["paused"] else "")
    output.print_table(table)


def _set(name: str, paused: bool, until: datetime | None = None) -> None:
    from jobplatform.ledger.queues import list_queues, set_paused

    with open_commands_ledger().transaction() as connection:
        if not set_paused(connection, name, paused, until):
            known = ", ".join(row.name for row in list_queues(connection))
            raise click.ClickException(f"no queue {name!r}; queues: {known}")
    end = f" until {until:%F %T %Z}" if until else ""
    click.echo(f"{name} is {f'paused{end}: nothing more starts there' if paused else 'resumed'}")


@queues.command()
@click.argument("name")
@click.option("--until", type=MOMENT, help="resume at this time, like 2026-01-31T12:00:00Z")
def pause(name: str, until: datetime | None) -> None:
    """Pause a queue: no job starts; running jobs continue."""
    if until is not None and until <= datetime.now(UTC):
        raise click.UsageError(f"--until: expected a time in the future, got {until.isoformat()}")
    _set(name, True, until)


@queues.command()
@click.argument("name")
def resume(name: str) -> None:
    """Resume a queue."""
    _set(name, False)
