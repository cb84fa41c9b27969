"""`jobplatform workers`: who works on what."""

from __future__ import annotations

import click

from jobplatform.cli import door
from jobplatform.cli.ledger import open_commands_ledger


@click.group()
def workers() -> None:
    """See the workers; needs the database."""


@workers.command("list")
@click.option("--all", "everyone", is_flag=True, help="those that have ended, too, of the last week")
@door.json_option
def list_workers(everyone: bool, as_json: bool) -> None:
    """List workers: what they consume, how much of it they run, and when they were heard of last."""
    from rich.table import Table

    from jobplatform.config import settings
    from jobplatform.ledger.workers import list_workers as read

    with open_commands_ledger().statement() as connection:
        found = [dict(row._mapping) for row in read(connection, settings().lease_seconds, everyone=everyone)]
    if as_json:
        door.print_json(found)
        return
    table = Table("worker", "queues", "kinds", "pool", "slots", "began", "beat", "state")
    for one in found:
        beat = f"{one['silent_seconds']:.1f} s ago"
        slots = f"{one['running']} of {one['slots']}"
        colour = "green" if one["state"] == "alive" else "red" if one["state"] == "lost" else "dim"
        queues, kinds = ", ".join(one["queues"]), ", ".join(one["kinds"])
        row = (one["node"], queues, kinds, one["pool"], slots, door.when(one["started_at"]), beat)
        table.add_row(*map(door.plain, row), f"[{colour}]{one['state']}[/]")
    door.print_table(table)
