"""`jobplatform migrate`: bring the ledger to the newest schema."""

from __future__ import annotations

import click

from jobplatform.errors import ConfigurationError


@click.command()
@click.option("--revision", default="head", show_default=True, help="the revision to go to")
@click.option("--down", is_flag=True, help="migrate back to --revision; data of newer revisions is lost")
def migrate(revision: str, down: bool) -> None:
    """Migrate the ledger to the newest schema (database). Safe to repeat, and to run on two hosts at once.

    `--down --revision 0002` migrates back, in emergencies: stop all processes first. Then run `migrate` of the
    version that the revision belongs to; it creates its functions.
    """
    from jobplatform.config import settings
    from jobplatform.ledger import schema
    from jobplatform.ledger.queues import put_queue
    from jobplatform.ledger.session import open_ledger

    url = settings().database_url.get_secret_value()
    ledger = open_ledger(url, name="migrate", connections=1)
    with ledger.statement() as connection:
        before = schema.revision_of(connection)
    if before is not None and not schema.is_known(before):
        raise ConfigurationError(
            f"the ledger is at revision {before}, which this version does not know (its newest is {schema.head()}): "
            "run the version that migrated it, or a newer one"
        )
    if not down and schema.is_behind(revision, before):
        raise ConfigurationError(
            f"the ledger is at revision {before}, which is newer than {revision}: --down goes back"
        )
    if down:
        if revision == "head":
            raise click.UsageError("--down: expected --revision with the revision to go back to")
        schema.downgrade(url, revision)
    else:
        schema.upgrade(url, revision)
    with ledger.transaction() as connection:
        now = schema.revision_of(connection)
        if now == schema.head():
            for name, queue in settings().queues.items():
                put_queue(connection, name, queue.window_min, queue.window_factor)
    ledger.close()
    click.echo(f"ledger is at revision {now or 'none'}; queues: {', '.join(settings().queues)}")
