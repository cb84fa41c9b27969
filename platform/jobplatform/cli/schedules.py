"""`jobplatform schedules`: manage what runs when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import find_tenant_id, open_commands_ledger


@click.group()
def schedules() -> None:
    """List, put, preview, pause, resume, run or delete schedules of TENANT."""


@schedules.command("list")
@click.argument("tenant")
def list_(tenant: str) -> None:
    """List the schedules of TENANT with their next times."""
    from rich.console import Console
    from rich.table import Table

    from jobplatform.usecases.manage_schedules import list_schedules

    ledger = open_commands_ledger()
    tenant_id, after = find_tenant_id(ledger, tenant), ""
    table = Table("name", "when", "kind", "next", "last", "overlap", "missed", "put by")
    while True:
        page, following = list_schedules(ledger, tenant_id, after=after, limit=200)
        for one in page:
            values = one.values
            soon = "paused" if values["paused"] else _time(values["next_at"]) or "no more"
            last = _time(values["last_at"])
            row = (values["in_words"], values["kind"], soon, last, values["overlap"], values["missed"])
            table.add_row(values["name"], *row, values["updated_by"])
        if following is None:
            break
        after = following
    Console().print(table)


@schedules.command()
@click.argument("tenant")
@click.argument("name")
@click.option("--count", default=20, show_default=True, type=click.IntRange(1, 1000))
def preview(tenant: str, name: str, count: int) -> None:
    """Print the next planned times of a schedule, in its time zone and in UTC."""
    from zoneinfo import ZoneInfo

    from rich.console import Console
    from rich.table import Table

    from jobplatform.usecases.manage_schedules import preview_schedule

    ledger = open_commands_ledger()
    found, times = preview_schedule(ledger, find_tenant_id(ledger, tenant), name, count)
    values = found.values
    table = Table(values["time_zone"], "UTC", title=values["in_words"], title_justify="left")
    for moment in times:
        local = moment.astimezone(ZoneInfo(values["time_zone"]))
        table.add_row(f"{local:%a %F %T %Z}", f"{moment.astimezone(UTC):%F %T}")
    Console().print(table)


@schedules.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("kind")
@click.option("--payload", default="{}", help='JSON; {"$planned_at": "%Y-%m-%d"} is the planned time')
@click.option("--cron", help="five fields, or six with seconds first")
@click.option("--every", type=click.FloatRange(1), help="seconds")
@click.option("--time-zone", default="UTC", show_default=True)
@click.option("--overlap", default="skip", show_default=True, type=click.Choice(["skip", "queue", "cancel", "allow"]))
@click.option("--missed", default="once", show_default=True, type=click.Choice(["skip", "once", "catch_up"]))
@click.option("--catch-up", default=1, show_default=True, type=click.IntRange(1, 1000))
@click.option("--jitter", default=0.0, type=click.FloatRange(0, 86_400), help="seconds")
@click.option("--priority", default=4, show_default=True, type=click.IntRange(0, 9))
def put(
    tenant: str,
    name: str,
    kind: str,
    payload: str,
    cron: str | None,
    every: float | None,
    time_zone: str,
    overlap: Any,
    missed: Any,
    catch_up: int,
    jitter: float,
    priority: int,
) -> None:
    """Make a schedule, or put it in the place of the one with its NAME.

    \b
    jobplatform schedules put acme report acme.report --cron "0 7 * * mon-fri" --time-zone Europe/Berlin
    """
    import orjson

    from jobplatform.config import settings
    from jobplatform.domain.kinds import load_kinds
    from jobplatform.domain.maintenance import TENANT
    from jobplatform.domain.schedules import ScheduleOrder
    from jobplatform.errors import InvalidRequest
    from jobplatform.usecases.maintain import add_kinds
    from jobplatform.usecases.manage_schedules import put_schedule

    try:
        value = orjson.loads(payload)
        if not isinstance(value, dict):
            raise ValueError(f"got {type(value).__name__}")
    except ValueError as error:
        raise click.UsageError(f"--payload: expected a JSON object: {error}") from None
    config, ledger = settings(), open_commands_ledger()
    order = ScheduleOrder(
        name,
        kind,
        value,
        cron=cron,
        every_seconds=every,
        time_zone=time_zone,
        overlap=overlap,
        missed=missed,
        catch_up=catch_up,
        jitter_seconds=jitter,
        priority=priority,
    )
    kinds = load_kinds(config.kind_modules, config.pools)
    if tenant == TENANT:
        add_kinds(kinds, config)
    try:
        found = put_schedule(ledger, kinds, find_tenant_id(ledger, tenant), order, by=who()).values
    except InvalidRequest as error:
        lines = [f"  {item.in_words()}" for item in error.errors]
        raise click.ClickException("\n".join([str(error), *lines])) from None
    click.echo(f"{name}: {found['in_words']}; next {_time(found['next_at']) or 'never'}")


@schedules.command()
@click.argument("tenant")
@click.argument("name")
def pause(tenant: str, name: str) -> None:
    """Pause a schedule: it fires no more until it is resumed."""
    _pause(tenant, name, True)


@schedules.command()
@click.argument("tenant")
@click.argument("name")
def resume(tenant: str, name: str) -> None:
    """Resume a schedule; what was planned meanwhile is not made up for."""
    _pause(tenant, name, False)


def _pause(tenant: str, name: str, paused: bool) -> None:
    from jobplatform.usecases.manage_schedules import pause_schedule

    ledger = open_commands_ledger()
    found = pause_schedule(ledger, find_tenant_id(ledger, tenant), name, paused, by=who()).values
    click.echo(f"{name} is paused" if paused else f"{name} is resumed; next {_time(found['next_at']) or 'never'}")


@schedules.command()
@click.argument("tenant")
@click.argument("name")
def run(tenant: str, name: str) -> None:
    """Fire a schedule now, once, beside its times."""
    from jobplatform.usecases.manage_schedules import run_now

    ledger = open_commands_ledger()
    click.echo(f"job {run_now(ledger, None, find_tenant_id(ledger, tenant), name, by=who())}")


@schedules.command()
@click.argument("tenant")
@click.argument("name")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
def fires(tenant: str, name: str, limit: int) -> None:
    """List what became of a schedule's planned times, newest first."""
    from rich.console import Console
    from rich.table import Table

    from jobplatform.usecases.manage_schedules import list_fires

    ledger = open_commands_ledger()
    table = Table("planned", "late by", "outcome", "job", "by")
    for one in list_fires(ledger, find_tenant_id(ledger, tenant), name, before=None, limit=limit):
        late = (one["at"] - one["planned_at"]).total_seconds()
        what = one["outcome"] + (f" until {_time(one['missed_until'])}" if one["missed_until"] else "")
        table.add_row(_time(one["planned_at"]), f"{late:.2f} s", what, str(one["job_id"] or ""), one["by"] or "")
    Console().print(table)


@schedules.command()
@click.argument("tenant")
@click.argument("name")
def delete(tenant: str, name: str) -> None:
    """Take a schedule away; the jobs that it has made stay."""
    from jobplatform.usecases.manage_schedules import delete_schedule

    ledger = open_commands_ledger()
    delete_schedule(ledger, find_tenant_id(ledger, tenant), name)
    click.echo(f"{name} is gone")


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%F %T}Z" if moment is not None else ""
