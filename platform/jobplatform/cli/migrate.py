"""`jobplatform migrate`: bring the ledger to the newest schema."""

from __future__ import annotations

import click


@click.command()
@click.option("--revision", default="head", show_default=True, help="the revision to go to")
def migrate(revision: str) -> None:
    """Bring the ledger to the newest schema. Safe to run twice, and from two places at once."""
    from jobplatform.config import settings
    from jobplatform.ledger import schema
    from jobplatform.ledger.queues import put_queue
    from jobplatform.ledger.session import open_ledger

    url = settings().database_url.get_secret_value()
    schema.upgrade(url, revision)
    ledger = open_ledger(url, name="migrate", connections=1)
    with ledger.transaction() as connection:
        for name, queue in settings().queues.items():
            put_queue(connection, name, queue.window_min, queue.window_factor)
        now = schema.revision_of(connection)
    ledger.close()
    click.echo(f"ledger is at revision {now}; queues: {', '.join(settings().queues)}")
