"""`jobplatform db`: the ledger's database."""

from __future__ import annotations

import click

from jobplatform.cli import door
from jobplatform.cli.ledger import open_commands_ledger
from jobplatform.cli.migrate import migrate


@click.group()
def db() -> None:
    """Migrate the ledger, and see how large it is; needs the database."""


db.add_command(migrate)


@db.command()
@door.json_option
def status(as_json: bool) -> None:
    """Show the ledger's revision, and its tables by size."""
    from rich.filesize import decimal
    from rich.table import Table

    from jobplatform.ledger import schema, sizes

    with open_commands_ledger().statement() as connection:
        revision, tables = schema.revision_of(connection), sizes.table_sizes(connection)
    if as_json:
        door.print_json({"revision": revision, "known": schema.head(), "tables": tables})
        return
    click.echo(f"revision {revision or 'none'}, this version knows {schema.head()}")
    table = Table("table", "rows, about", "size", "of it indexes", "partitions", "dead rows", "vacuumed")
    for one in tables:
        row = (one["name"], f"{one['rows']:,}", decimal(one["bytes"]), decimal(one["index_bytes"]), one["partitions"])
        table.add_row(*map(door.plain, row), f"{one['dead_rows']:,}", door.when(one["vacuumed_at"]))
    door.print_table(table)
