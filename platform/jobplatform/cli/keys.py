"""`jobplatform keys`: the API keys of tenants."""

from __future__ import annotations

import click

from jobplatform.cli.ledger import open_commands_ledger


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.option("--tenant", default="default", show_default=True, help="made when it does not exist")
@click.option("--name", default="cli", show_default=True, help="what the key is for")
@click.option("--max-priority", type=click.IntRange(0, 9), default=9, show_default=True, help="the highest to ask for")
@click.option("--operator", is_flag=True, help="may read and change limits, weights and quotas, of all tenants")
def create(tenant: str, name: str, max_priority: int, operator: bool) -> None:
    """Create an API key and print it: the only time it can be read."""
    from jobplatform.ledger.keys import create_key, create_tenant

    with open_commands_ledger().transaction() as connection:
        key = create_key(
            connection, create_tenant(connection, tenant), name, max_priority=max_priority, is_operator=operator
        )
    click.echo(key)


@keys.command()
@click.argument("prefix")
def revoke(prefix: str) -> None:
    """Revoke the key that begins with PREFIX (ten characters, see `keys list`). Acts with the next request."""
    from jobplatform.ledger.keys import revoke_keys

    with open_commands_ledger().transaction() as connection:
        count = revoke_keys(connection, prefix)
    if not count:
        raise click.ClickException(f"no valid key begins with {prefix[:10]!r}: see `jobplatform keys list`")
    click.echo(f"{count} key revoked")


@keys.command("list")
def list_all() -> None:
    """List all keys."""
    from rich.console import Console
    from rich.table import Table

    from jobplatform.ledger.keys import list_keys

    with open_commands_ledger().statement() as connection:
        rows = list_keys(connection)
    table = Table("prefix", "name", "tenant", "max priority", "operator", "created", "revoked")
    for row in rows:
        table.add_row(
            row.prefix,
            row.name,
            row.tenant,
            str(row.max_priority),
            "yes" if row.is_operator else "",
            f"{row.created_at:%Y-%m-%d %H:%M}",
            str(row.revoked_at or ""),
        )
    Console().print(table)
