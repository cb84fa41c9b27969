"""`jobplatform tenants`: weights and quotas of tenants."""

from __future__ import annotations

import click

from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import open_commands_ledger


@click.group()
def tenants() -> None:
    """Show and set weights and quotas of tenants (docs/concepts/limits.md). Needs the database."""


@tenants.command("list")
@click.option("--after", default="", help="continue after this name")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
def list_all(after: str, limit: int) -> None:
    """List tenants with their weights, and all quotas."""
    from rich.console import Console
    from rich.table import Table

    from jobplatform.usecases.manage_limits import list_quotas, list_tenants

    ledger = open_commands_ledger()
    page, more = list_tenants(ledger, after=after, limit=limit)
    table = Table("tenant", "weight")
    for item in page:
        table.add_row(item["name"], f"{item['weight']:g}")
    Console().print(table)
    if more:
        click.echo(f"more: --after {more}")
    quotas = Table("tenant", "queue", "jobs that may wait", "set by", title="quotas", title_justify="left")
    for item in list_quotas(ledger):
        quotas.add_row(item["tenant"], item["queue"], f"{item['max_waiting']:,}", item["updated_by"])
    if quotas.row_count:
        Console().print(quotas)


@tenants.command()
@click.argument("tenant")
@click.argument("weight", type=float)
def weight(tenant: str, weight: float) -> None:
    """Set the weight of TENANT: with 2 it gets twice the share of a tenant with 1 while both have waiting jobs."""
    from jobplatform.usecases.manage_limits import set_weight

    set_weight(open_commands_ledger(), tenant, weight)
    click.echo(f"{tenant} has weight {weight:g}")


@tenants.command()
@click.argument("tenant")
@click.argument("queue")
@click.argument("max_waiting", required=False, type=int)
@click.option("--remove", is_flag=True, help="remove the quota")
def quota(tenant: str, queue: str, max_waiting: int | None, remove: bool) -> None:
    """Limit the waiting jobs of TENANT in QUEUE to MAX_WAITING. '*' stands for each without a quota of its own.

    The queue '+' stands for all queues together and counts all live jobs, dead letters included.
    """
    from jobplatform.config import settings
    from jobplatform.usecases.manage_limits import put_quota, remove_quota

    if remove == (max_waiting is not None):
        raise click.UsageError("expected a number of jobs, or --remove")
    ledger = open_commands_ledger()
    if max_waiting is None:
        remove_quota(ledger, tenant, queue)
        click.echo(f"{tenant} has no quota in {queue} any more")
        return
    put_quota(ledger, tenant, queue, max_waiting, queues=settings().queues, by=who())
    where = "live, in all queues together" if queue == "+" else f"wait in {queue}"
    click.echo(f"{max_waiting:,} jobs of {tenant} may {where}")
