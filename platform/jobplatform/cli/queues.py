"""`jobplatform queues`: pause and resume."""

from __future__ import annotations

import click

from jobplatform.cli.ledger import open_commands_ledger


@click.group()
def queues() -> None:
    """Pause and resume queues."""


def _set(name: str, paused: bool) -> None:
    from jobplatform.ledger.queues import list_queues, set_paused

    with open_commands_ledger().transaction() as connection:
        if not set_paused(connection, name, paused):
            known = ", ".join(row.name for row in list_queues(connection))
            raise click.ClickException(f"no queue {name!r}; queues: {known}")
    click.echo(f"{name} is {'paused: nothing more starts there' if paused else 'resumed'}")


@queues.command()
@click.argument("name")
def pause(name: str) -> None:
    """Pause a queue: running jobs go on, nothing more starts."""
    _set(name, True)


@queues.command()
@click.argument("name")
def resume(name: str) -> None:
    """Resume a queue."""
    _set(name, False)
