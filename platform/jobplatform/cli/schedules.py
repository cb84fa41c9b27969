"""`jobplatform schedules`: manage schedules, over HTTP or by the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import find_tenant_id, open_commands_ledger
from jobplatform.cli.output import when
from jobplatform.cli.payload import parse_object, read_source


@click.group()
def schedules() -> None:
    """List, put, preview, pause, resume, run or delete schedules.

    Uses HTTP, with JOBPLATFORM_URL and JOBPLATFORM_API_KEY; with --tenant the database.
    """


def _path(name: str, more: str = "") -> str:
    from urllib.parse import quote

    return f"/v1/schedules/{quote(name, safe='')}{more}"


@schedules.command("list")
@options.tenant_option
@options.json_option
def list_(tenant: str | None, as_json: bool) -> None:
    """List schedules with their next times."""
    from rich.table import Table

    rows = _read_all(tenant)
    if as_json:
        output.print_json(rows)
        return
    table = Table("name", "when", "kind", "next", "last", "overlap", "missed", "put by")
    for schedule in rows:
        soon = "paused" if schedule["paused"] else when(schedule["next_at"]) or "no more"
        last = when(schedule["last_at"])
        row = (
            schedule["name"],
            schedule["in_words"],
            schedule["kind"],
            soon,
            last,
            schedule["overlap"],
            schedule["missed"],
            schedule["updated_by"],
        )
        table.add_row(*map(output.plain, row))
    output.print_table(table)


def _read_all(tenant: str | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    following: str | None = ""
    if tenant is None:
        with http.connect() as client:
            while following is not None:
                page = client.call("GET", "/v1/schedules", params={"cursor": following, "limit": 200})
                rows, following = rows + page["schedules"], page["next_cursor"]
        return rows
    from jobplatform.usecases.manage_schedules import list_schedules

    ledger = open_commands_ledger()
    tenant_id = find_tenant_id(ledger, tenant)
    while following is not None:
        some, following = list_schedules(ledger, tenant_id, after=following, limit=200)
        rows += [row.as_dict() for row in some]
    return rows


@schedules.command()
@click.argument("name")
@click.option("--count", default=20, show_default=True, type=click.IntRange(1, 1000))
@options.tenant_option
def preview(name: str, count: int, tenant: str | None) -> None:
    """Print the next planned times of a schedule, in its time zone and in UTC."""
    from zoneinfo import ZoneInfo

    from rich.table import Table

    if tenant is None:
        values = http.call_api("GET", _path(name))
        times = http.call_api("GET", _path(name, "/preview"), params={"count": count})["times"]
        moments = [datetime.fromisoformat(time) for time in times]
    else:
        from jobplatform.usecases.manage_schedules import preview_schedule

        ledger = open_commands_ledger()
        schedule, moments = preview_schedule(ledger, find_tenant_id(ledger, tenant), name, count)
        values = schedule.values
    table = Table(values["time_zone"], "UTC", title=values["in_words"], title_justify="left")
    for moment in moments:
        local = moment.astimezone(ZoneInfo(values["time_zone"]))
        table.add_row(f"{local:%a %F %T %Z}", f"{moment.astimezone(UTC):%F %T}")
    output.print_table(table)


@schedules.command()
@click.argument("name")
@click.argument("kind")
@click.option(
    "-p", "--payload", default="{}", metavar="JSON|@FILE|-", help='{"$planned_at": "%Y-%m-%d"} is the planned time'
)
@click.option("--cron", help="five fields, or six with seconds first")
@click.option("--every", type=click.FloatRange(1), help="seconds")
@click.option("--time-zone", default="UTC", show_default=True)
@click.option("--overlap", default="skip", show_default=True, type=click.Choice(["skip", "queue", "cancel", "allow"]))
@click.option("--missed", default="once", show_default=True, type=click.Choice(["skip", "once", "catch_up"]))
@click.option("--catch-up", default=1, show_default=True, type=click.IntRange(1, 1000))
@click.option("--jitter", default=0.0, type=click.FloatRange(0, 86_400), help="seconds")
@click.option("--priority", default=4, show_default=True, type=click.IntRange(0, 9))
@options.tenant_option
def put(
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
    tenant: str | None,
) -> None:
    """Create or replace the schedule NAME.

    \b
    jobplatform schedules put report acme.report --cron "0 7 * * mon-fri" --time-zone Europe/Berlin
    """
    values: dict[str, Any] = {
        "kind": kind,
        "payload": parse_object(read_source(payload), "--payload"),
        "cron": cron,
        "every_seconds": every,
        "time_zone": time_zone,
        "overlap": overlap,
        "missed": missed,
        "catch_up": catch_up,
        "jitter_seconds": jitter,
        "priority": priority,
    }
    if tenant is None:
        result = http.call_api("PUT", _path(name), body={key: item for key, item in values.items() if item is not None})
    else:
        result = _put_by_database(tenant, name, values)
    click.echo(f"{name}: {result['in_words']}; next {when(result['next_at']) or 'never'}")


def _put_by_database(tenant: str, name: str, values: dict[str, Any]) -> dict[str, Any]:
    from jobplatform.config import settings
    from jobplatform.domain.kinds import load_kinds
    from jobplatform.domain.maintenance import TENANT
    from jobplatform.domain.schedules import ScheduleDefinition
    from jobplatform.usecases.manage_schedules import put_schedule
    from jobplatform.usecases.run_maintenance import add_kinds

    config, ledger = settings(), open_commands_ledger()
    kinds = load_kinds(config.kind_modules, config.pools)
    if tenant == TENANT:
        add_kinds(kinds, config)
    tenant_id = find_tenant_id(ledger, tenant)
    return put_schedule(ledger, kinds, tenant_id, ScheduleDefinition(name, **values), by=who()).values


@schedules.command()
@click.argument("name")
@options.tenant_option
def pause(name: str, tenant: str | None) -> None:
    """Pause a schedule: it does not fire until it is resumed."""
    _pause(name, tenant, True)


@schedules.command()
@click.argument("name")
@options.tenant_option
def resume(name: str, tenant: str | None) -> None:
    """Resume a schedule. Fires that were planned during the pause are skipped."""
    _pause(name, tenant, False)


def _pause(name: str, tenant: str | None, paused: bool) -> None:
    if tenant is None:
        result = http.call_api("POST", _path(name, "/pause" if paused else "/resume"))
    else:
        from jobplatform.usecases.manage_schedules import pause_schedule

        ledger = open_commands_ledger()
        result = pause_schedule(ledger, find_tenant_id(ledger, tenant), name, paused, by=who()).values
    click.echo(f"{name} is paused" if paused else f"{name} is resumed; next {when(result['next_at']) or 'never'}")


@schedules.command()
@click.argument("name")
@options.tenant_option
def run(name: str, tenant: str | None) -> None:
    """Fire a schedule once, now, in addition to its planned times."""
    if tenant is None:
        click.echo(f"job {http.call_api('POST', _path(name, '/run'))['job_id']}")
        return
    from jobplatform.usecases.manage_schedules import run_now

    ledger = open_commands_ledger()
    click.echo(f"job {run_now(ledger, None, find_tenant_id(ledger, tenant), name, by=who())}")


@schedules.command()
@click.argument("name")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@options.tenant_option
@options.json_option
def fires(name: str, limit: int, tenant: str | None, as_json: bool) -> None:
    """List the fires of a schedule and their outcomes, newest first."""
    from rich.table import Table

    if tenant is None:
        rows = http.call_api("GET", _path(name, "/fires"), params={"limit": limit})["fires"]
    else:
        from jobplatform.usecases.manage_schedules import list_fires

        ledger = open_commands_ledger()
        rows = list_fires(ledger, find_tenant_id(ledger, tenant), name, before=None, limit=limit)
    if as_json:
        output.print_json(rows)
        return
    table = Table("planned", "late by", "outcome", "job", "by")
    for fire in rows:
        late = (_moment(fire["at"]) - _moment(fire["planned_at"])).total_seconds()
        what = fire["outcome"] + (f" until {when(fire['missed_until'])}" if fire["missed_until"] else "")
        row = (when(fire["planned_at"]), f"{late:.2f} s", what, fire["job_id"], fire["by"])
        table.add_row(*map(output.plain, row))
    output.print_table(table)


def _moment(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


@schedules.command()
@click.argument("name")
@options.tenant_option
def delete(name: str, tenant: str | None) -> None:
    """Delete a schedule. The jobs that it has created stay."""
    if tenant is None:
        http.call_api("DELETE", _path(name))
    else:
        from jobplatform.usecases.manage_schedules import delete_schedule

        ledger = open_commands_ledger()
        delete_schedule(ledger, find_tenant_id(ledger, tenant), name)
    click.echo(f"{name} is gone")
