"""`jobplatform jobs`: look at one job, and do what a person may do to it."""

from __future__ import annotations

import getpass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import click

from jobplatform.cli.ledger import open_commands_ledger

if TYPE_CHECKING:
    from jobplatform.domain.jobs import JobView
    from jobplatform.ledger.session import Ledger

MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"])


@click.group()
def jobs() -> None:
    """Explain, cancel, replay, discard or change a job, of any tenant."""


def who() -> str:
    """Return who does it, for the job's history."""
    return f"cli:{getpass.getuser()}"


def tenant_of(ledger: Ledger, job_id: UUID) -> UUID:
    """Return the tenant of a job. Raises `JobNotFound`."""
    from jobplatform.errors import JobNotFound
    from jobplatform.ledger.jobs import find_tenant

    with ledger.statement() as connection:
        tenant_id = find_tenant(connection, job_id)
    if tenant_id is None:
        raise JobNotFound(job_id)
    return tenant_id


def _tell(job: JobView) -> None:
    click.echo(f"{job.id} is {job.state.value}")


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def explain(job_id: UUID, as_json: bool) -> None:
    """Tell why a job is where it is, in order, and how long it was in each state."""
    import orjson
    from rich.console import Console
    from rich.table import Table

    from jobplatform.config import settings
    from jobplatform.usecases.explain_job import explain_job

    ledger = open_commands_ledger()
    found = explain_job(ledger, settings(), tenant_of(ledger, job_id), job_id)
    if as_json:
        click.echo(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))
        return
    console = Console()
    console.print(f"[bold]{job_id}[/] is [bold]{found.state.value}[/]")
    reasons = Table("why", "", "what to do")
    for reason in found.reasons:
        reasons.add_row(reason.code, reason.message, reason.remedy)
    console.print(reasons)
    times = Table("state", "seconds in it")
    for state, seconds in found.seconds_in.items():
        times.add_row(state, f"{seconds:,.3f}")
    console.print(times)


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--reason", help="kept with the job")
def cancel(job_id: UUID, reason: str | None) -> None:
    """Call a job off: at once unless it runs; a running one is told, and killed after a grace."""
    from jobplatform.usecases.cancel_job import cancel_job

    ledger = open_commands_ledger()
    _tell(cancel_job(ledger, tenant_of(ledger, job_id), job_id, reason, by=who()))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--reason", help="kept in its history")
def replay(job_id: UUID, reason: str | None) -> None:
    """Run a job again that is dead, cancelled or expired."""
    from jobplatform.usecases.replay_job import replay_job

    ledger = open_commands_ledger()
    _tell(replay_job(ledger, None, tenant_of(ledger, job_id), job_id, by=who(), reason=reason))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--reason", required=True, help="kept with the job")
def discard(job_id: UUID, reason: str) -> None:
    """Throw a dead letter away, or a job that is held; it stays in history."""
    from jobplatform.usecases.discard_job import discard_job

    ledger = open_commands_ledger()
    _tell(discard_job(ledger, tenant_of(ledger, job_id), job_id, reason, by=who()))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--priority", type=click.IntRange(0, 9))
@click.option("--run-at", type=MOMENT, help="like 2026-01-31T12:00:00Z; one that has passed means at once")
def change(job_id: UUID, priority: int | None, run_at: datetime | None) -> None:
    """Change priority or time of a job that no run has."""
    from jobplatform.usecases.change_job import change_job

    if priority is None and run_at is None:
        raise click.UsageError("expected --priority, --run-at, or both")
    ledger = open_commands_ledger()
    tenant_id = tenant_of(ledger, job_id)
    _tell(change_job(ledger, None, tenant_id, job_id, priority=priority, run_at=run_at, by=who()))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.argument("effect")
@click.option("--happened/--not-happened", required=True, help="did it take place?")
@click.option("--receipt", help="JSON: what the other side said, for the runs to come")
def resolve(job_id: UUID, effect: str, happened: bool, receipt: str | None) -> None:
    """Say what became of the EFFECT that holds a job; it runs again."""
    import orjson

    from jobplatform.usecases.resolve_effect import resolve_effect

    try:
        value = orjson.loads(receipt) if receipt is not None else None
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"--receipt: expected JSON, got {receipt!r}: {error}") from None
    ledger = open_commands_ledger()
    tenant_id = tenant_of(ledger, job_id)
    _tell(resolve_effect(ledger, None, tenant_id, job_id, effect, happened=happened, receipt=value, by=who()))
