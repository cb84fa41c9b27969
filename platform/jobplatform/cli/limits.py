"""`jobplatform limits`: limits, their usage, and pauses of limit keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import open_commands_ledger

if TYPE_CHECKING:
    from jobplatform.domain.limits import Limit


@click.group()
def limits() -> None:
    """Show and set limits (docs/concepts/limits.md). Changes take effect at once. Needs the database."""


@limits.command("list")
@click.option("--json", "as_json", is_flag=True, help="as GET /v1/limits has it")
def list_all(as_json: bool) -> None:
    """Show all limits, their usage and the jobs that wait for them."""
    from jobplatform.usecases.manage_limits import LINES, list_limits

    limit_views = list_limits(open_commands_ledger())
    if as_json:
        import orjson

        click.echo(orjson.dumps({"limits": [item.as_dict() for item in limit_views]}))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("limit, and its keys", "in flight", "units left", "paused until", "waiting")
    table.columns[0].overflow = "fold"
    for view in limit_views:
        title = (
            f"[bold]{escape(view.limit.name)}[/]  {_in_words(view.limit)}"
            if view.limit
            else "[bold]without a limit, paused[/]"
        )
        table.add_row(title)
        for use in view.keys:
            held = f"{use.paused_until:%F %T} {use.paused_reason or ''}".rstrip() if use.paused_until else ""
            more = " or more" if use.waiting_lines >= LINES else ""
            waits = f"{use.waiting_tenants}{more} tenants, {use.oldest_seconds or 0:.0f} s" if use.waiting_lines else ""
            left = "" if use.units_left is None else f"{use.units_left:.1f}"
            left += f", {use.units_reserved:g} reserved" if use.units_reserved else ""
            table.add_row(f"  {escape(use.key)}", str(use.dispatched + use.running), left, escape(held), waits)
        if view.more_keys:
            table.add_row("  …")
    Console().print(table)


def _in_words(limit: Limit) -> str:
    words = [f"{limit.max_concurrent} at once"] if limit.max_concurrent is not None else []
    if limit.rate_units is not None:
        burst = f", burst {limit.burst_units:g}" if limit.burst_units is not None else ""
        period = f"{limit.rate_units:g} in {limit.rate_seconds:g} s"
        words.append(f"{period}{', sliding' if limit.sliding else burst}")
    return "; ".join(words)


@limits.command("set")
@click.argument("name")
@click.option("--max-concurrent", type=int, help="jobs in flight at once")
@click.option("--rate", type=float, help="units per --seconds, taken when a run starts")
@click.option("--seconds", type=float, help="the period of --rate")
@click.option("--burst", type=float, help="capacity of the token bucket  [default: --rate]")
@click.option(
    "--sliding", is_flag=True, help="sliding window instead of a token bucket: at most --rate in any --seconds"
)
def set_limit(
    name: str,
    max_concurrent: int | None,
    rate: float | None,
    seconds: float | None,
    burst: float | None,
    sliding: bool,
) -> None:
    """Set the limit of a key (provider:openai), or of every key with a prefix ('domain:*')."""
    from jobplatform.domain.limits import Limit
    from jobplatform.usecases.manage_limits import put_limit

    limit = Limit(name, max_concurrent, rate, seconds, burst, sliding)
    put_limit(open_commands_ledger(), limit, by=who())
    click.echo(f"{name} is limited; jobs in flight continue")


@limits.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a limit."""
    from jobplatform.usecases.manage_limits import remove_limit

    remove_limit(open_commands_ledger(), name)
    click.echo(f"{name} is not limited")


@limits.command()
@click.argument("key")
@click.argument("seconds", type=float)
@click.option("--reason", default="by an operator", show_default=True)
def pause(key: str, seconds: float, reason: str) -> None:
    """Pause KEY for SECONDS: no job that uses it starts. Running jobs continue."""
    from jobplatform.usecases.manage_limits import pause_key

    until = pause_key(open_commands_ledger(), key, seconds, reason)
    click.echo(f"{key} is paused until {until:%F %T %Z}")


@limits.command()
@click.argument("key")
def resume(key: str) -> None:
    """Resume KEY."""
    from jobplatform.usecases.manage_limits import pause_key

    pause_key(open_commands_ledger(), key, 0, "")
    click.echo(f"{key} is not paused")
