"""`jobplatform rebuild`: publish the ledger's dispatched jobs again."""

from __future__ import annotations

import click

from jobplatform.cli.ledger import open_commands_ledger

BATCH = 1000


@click.command()
@click.argument("queue", required=False)
def rebuild(queue: str | None) -> None:
    """Publish all dispatched jobs of QUEUE, or of all queues, again: after a queue was emptied by hand (database).

    Safe at any time: messages that still exist become stale and run nothing. A wiped broker and lost messages
    are detected without it.
    """
    from jobplatform.ledger import server
    from jobplatform.ledger.dispatching import return_dispatched
    from jobplatform.ledger.queues import list_queues

    ledger, count = open_commands_ledger(), 0
    with ledger.statement() as connection:
        known = [row.name for row in list_queues(connection)]
        now = server.now(connection)
    if queue is not None and queue not in known:
        raise click.ClickException(f"no queue {queue!r}; queues: {', '.join(known)}")
    while True:
        with ledger.transaction() as connection:
            returned = return_dispatched(connection, queue, now, BATCH, "rebuilt by hand")
        count += returned
        if returned < BATCH:
            break
        click.echo(f"{count:,} …", err=True)
    click.echo(f"{count:,} dispatched jobs of {queue or 'all queues'} go out again")
