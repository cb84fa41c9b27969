"""`jobplatform queues`: pause and resume."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from jobplatform.cli.jobs import MOMENT
from jobplatform.cli.ledger import open_commands_ledger


@click.group()
def queues() -> None:
    """Pause and resume queues."""


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
@click.option("--until", type=MOMENT, help="resumes by itself then, like 2026-01-31T12:00:00Z")
def pause(name: str, until: datetime | None) -> None:
    """Pause a queue: running jobs go on, nothing more starts."""
    if until is not None and until <= datetime.now(UTC):
        raise click.UsageError(f"--until: expected a time in the future, got {until.isoformat()}")
    _set(name, True, until)


@queues.command()
@click.argument("name")
def resume(name: str) -> None:
    """Resume a queue."""
    _set(name, False)
