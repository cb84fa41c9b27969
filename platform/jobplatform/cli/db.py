"""`jobplatform db`: the ledger's database."""

from __future__ import annotations

import click

from jobplatform.cli import options, output
from jobplatform.cli.ledger import open_commands_ledger
from jobplatform.cli.migrate import migrate


@click.group()
def db() -> None:
    """Inspect the ledger's database. Needs the database."""


db.add_command(migrate)


@db.command()
@options.json_option
def status(as_json: bool) -> None:
    """Show the ledger's revision, and its tables by size."""
    from rich.filesize import decimal
    from rich.table import Table

    from jobplatform.ledger import schema, sizes

    with open_commands_ledger().statement() as connection:
        revision, tables = schema.revision_of(connection), sizes.table_sizes(connection)
    if as_json:
        output.print_json({"revision": revision, "known": schema.head(), "tables": tables})
        return
    click.echo(f"revision {revision or 'none'}, this version knows {schema.head()}")
    table = Table("table", "rows, about", "size", "of it indexes", "partitions", "dead rows", "vacuumed")
    for item in tables:
        row = (
            item["name"],
            f"{item['rows']:,}",
            decimal(item["bytes"]),
            decimal(item["index_bytes"]),
            item["partitions"],
        )
        table.add_row(*map(output.plain, row), f"{item['dead_rows']:,}", output.when(item["vacuumed_at"]))
    output.print_table(table)
