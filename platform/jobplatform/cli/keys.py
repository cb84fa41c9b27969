"""`jobplatform keys`: the API keys of tenants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import open_commands_ledger
from jobplatform.domain.access import USUAL_SCOPES, Scope

if TYPE_CHECKING:
    from uuid import UUID

    from jobplatform.ledger.session import Ledger


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke API keys of any tenant. Needs the database."""


@keys.command()
@click.option("--tenant", default="default", show_default=True, help="created if it does not exist")
@click.option("--name", default="cli", show_default=True, help="purpose of the key")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help=f"what it may be used for, given as often as needed  [default: {', '.join(USUAL_SCOPES)}]",
)
@click.option("--kind", "kinds", multiple=True, help="kinds it may submit: email.send, 'email.*'  [default: all]")
@click.option(
    "--max-priority",
    type=click.IntRange(0, 9),
    default=9,
    show_default=True,
    help="highest priority it may submit with",
)
@click.option("--per-minute", type=click.IntRange(min=1), help="requests per minute  [default: no limit]")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="days until it expires  [default: never]")
@click.option("--operator", is_flag=True, help="may read and change limits, weights and quotas, of all tenants")
def create(
    tenant: str,
    name: str,
    scopes: tuple[str, ...],
    kinds: tuple[str, ...],
    max_priority: int,
    per_minute: int | None,
    days: float | None,
    operator: bool,
) -> None:
    """Create an API key and print it. It can't be read later."""
    from jobplatform.ledger.keys import Grants, create_tenant
    from jobplatform.usecases.manage_keys import create_key

    grants = Grants(
        scopes=tuple(Scope(scope) for scope in scopes) or USUAL_SCOPES,
        kinds=kinds or None,
        max_priority=max_priority,
        is_operator=operator,
        requests_per_minute=per_minute,
        expires_at=datetime.now(UTC) + timedelta(days=days) if days is not None else None,
    )
    ledger = open_commands_ledger()
    with ledger.transaction() as connection:
        tenant_id = create_tenant(connection, tenant)
    click.echo(create_key(ledger, tenant_id, name, grants, by=who()).key)


@keys.command()
@click.argument("prefix")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, 31 * 24),
    default=24,
    show_default=True,
    help="hours during which both are valid",
)
def rotate(prefix: str, overlap_hours: float) -> None:
    """Create a key with the grants of the one that begins with PREFIX, and print it. The old key expires later."""
    from jobplatform.usecases.manage_keys import rotate_key

    ledger = open_commands_ledger()
    made = rotate_key(ledger, None, _find(ledger, prefix), by=who(), overlap_seconds=overlap_hours * 3600)
    click.echo(made.key)


@keys.command()
@click.argument("prefix")
def revoke(prefix: str) -> None:
    """Revoke the key that begins with PREFIX (ten characters, see `keys list`). Its next request is refused."""
    from jobplatform.usecases.manage_keys import revoke_key

    ledger = open_commands_ledger()
    revoke_key(ledger, None, _find(ledger, prefix))
    click.echo("1 key revoked")


def _find(ledger: Ledger, prefix: str) -> UUID:
    from jobplatform.ledger.keys import find_keys

    with ledger.statement() as connection:
        candidates = find_keys(connection, prefix)
    if len(candidates) != 1:
        raise click.ClickException(
            f"{len(candidates) or 'no'} valid keys begin with {prefix[:10]!r}: see `jobplatform keys list`"
        )
    key_id: UUID = candidates[0].id
    return key_id


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def list_all(as_json: bool) -> None:
    """List all keys."""
    import orjson
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from jobplatform.ledger.keys import list_keys
    from jobplatform.usecases.manage_keys import view_of

    with open_commands_ledger().statement() as connection:
        rows = list_keys(connection)
    if as_json:
        click.echo(orjson.dumps({"keys": [view_of(row) for row in rows]}))
        return
    table = Table("prefix", "name, tenant", "may", "last used", "until")
    for row in rows:
        may = ", ".join(["operator"] * row.is_operator + row.scopes)
        if row.kinds is not None:
            may += f"; {', '.join(row.kinds)}"
        if row.max_priority < 9:
            may += f"; priority ≤ {row.max_priority}"
        if row.requests_per_minute is not None:
            may += f"; {row.requests_per_minute} a minute"
        until = f"revoked {row.revoked_at:%F}" if row.revoked_at else f"{row.expires_at:%F}" if row.expires_at else ""
        used = f"{row.last_used_at:%F %H:%M}" if row.last_used_at else ""
        table.add_row(row.prefix, f"{escape(row.name)}, {escape(row.tenant)}", escape(may), used, until)
    Console().print(table)
