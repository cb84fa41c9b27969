"""`jobplatform jobs`: submit, follow and control jobs."""

from __future__ import annotations

import getpass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.ledger import open_commands_ledger
from jobplatform.cli.listing import events, list_jobs, show
from jobplatform.cli.options import MOMENT
from jobplatform.cli.submit import submit, submit_many
from jobplatform.cli.watch import watch

if TYPE_CHECKING:
    from jobplatform.domain.jobs import JobView
    from jobplatform.ledger.session import Ledger


@click.group()
def jobs() -> None:
    """Submit, list, show and watch jobs; explain, cancel, replay, discard, change or resolve one.

    Uses HTTP, with JOBPLATFORM_URL and JOBPLATFORM_API_KEY. Without a key, or with --database, commands that control
    one job use the database, regardless of tenant.
    """


for _command in (submit, submit_many, list_jobs, show, watch, events):
    jobs.add_command(_command)


def who() -> str:
    """Return the name of the caller, for the job's history."""
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


def _print_state(job: JobView) -> None:
    click.echo(f"{job.id} is {job.state.value}")


def _over_http(database: bool, method: str, path: str, **body: Any) -> bool:
    """Send the request over HTTP and print the job, if there is a key and --database is not given; returns whether."""
    if database or not http.has_key():
        return False
    job = http.call_api(
        method, f"/v1/jobs/{path}", body={name: value for name, value in body.items() if value is not None}
    )
    click.echo(f"{job['id']} is {job['state']}")
    return True


@jobs.command()
@click.argument("job_id", type=click.UUID)
@options.database_option
@options.json_option
def explain(job_id: UUID, database: bool, as_json: bool) -> None:
    """Explain the state of a job, and how long it was in each state."""
    from rich.table import Table

    result = _explanation(job_id, database)
    if as_json:
        output.print_json(result)
        return
    click.echo(f"{job_id} is {result['state']}")
    reasons = Table("why", "", "what to do")
    for reason in result["reasons"]:
        reasons.add_row(*(output.plain(reason[name]) for name in ("code", "message", "remedy")))
    output.print_table(reasons)
    times = Table("state", "seconds in it")
    for state, seconds in result["seconds_in"].items():
        times.add_row(state, f"{seconds:,.3f}")
    output.print_table(times)


def _explanation(job_id: UUID, database: bool) -> dict[str, Any]:
    if http.has_key() and not database:
        result: dict[str, Any] = http.call_api("GET", f"/v1/jobs/{job_id}/explain")
        return result
    from jobplatform.config import settings
    from jobplatform.usecases.explain_job import explain_job

    ledger = open_commands_ledger()
    return explain_job(ledger, settings(), tenant_of(ledger, job_id), job_id).as_dict()


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--reason", help="stored with the job")
@options.database_option
def cancel(job_id: UUID, reason: str | None, database: bool) -> None:
    """Cancel a job: at once, or, while it runs, after its handler was notified and a grace period has passed."""
    from jobplatform.usecases.cancel_job import cancel_job

    if _over_http(database, "POST", f"{job_id}/cancel", reason=reason):
        return
    ledger = open_commands_ledger()
    _print_state(cancel_job(ledger, tenant_of(ledger, job_id), job_id, reason, by=who()))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--reason", help="stored in its history")
@options.database_option
def replay(job_id: UUID, reason: str | None, database: bool) -> None:
    """Replay a job that is dead, cancelled or expired."""
    from jobplatform.usecases.replay_job import replay_job

    if _over_http(database, "POST", f"{job_id}/replay", reason=reason):
        return
    ledger = open_commands_ledger()
    _print_state(replay_job(ledger, None, tenant_of(ledger, job_id), job_id, by=who(), reason=reason))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--reason", required=True, help="stored with the job")
@options.database_option
def discard(job_id: UUID, reason: str, database: bool) -> None:
    """Discard a dead-lettered or held job. It stays in the history."""
    from jobplatform.usecases.discard_job import discard_job

    if _over_http(database, "POST", f"{job_id}/discard", reason=reason):
        return
    ledger = open_commands_ledger()
    _print_state(discard_job(ledger, tenant_of(ledger, job_id), job_id, reason, by=who()))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.option("--priority", type=click.IntRange(0, 9))
@click.option("--run-at", type=MOMENT, help="like 2026-01-31T12:00:00Z; a time in the past means now")
@options.database_option
def change(job_id: UUID, priority: int | None, run_at: datetime | None, database: bool) -> None:
    """Change the priority or time of a job that is not running."""
    from jobplatform.usecases.change_job import change_job

    if priority is None and run_at is None:
        raise click.UsageError("expected --priority, --run-at, or both")
    if _over_http(database, "PATCH", str(job_id), priority=priority, run_at=run_at):
        return
    ledger = open_commands_ledger()
    tenant_id = tenant_of(ledger, job_id)
    _print_state(change_job(ledger, None, tenant_id, job_id, priority=priority, run_at=run_at, by=who()))


@jobs.command()
@click.argument("job_id", type=click.UUID)
@click.argument("effect")
@click.option("--happened/--not-happened", required=True, help="did it take place?")
@click.option("--receipt", help="JSON: response of the other system, passed to later runs")
@options.database_option
def resolve(job_id: UUID, effect: str, happened: bool, receipt: str | None, database: bool) -> None:
    """Record whether the EFFECT that holds a job took place. The job runs again."""
    import orjson

    from jobplatform.usecases.resolve_effect import resolve_effect

    try:
        value = orjson.loads(receipt) if receipt is not None else None
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"--receipt: expected JSON, got {receipt!r}: {error}") from None
    if _over_http(database, "POST", f"{job_id}/resolve", effect=effect, happened=happened, receipt=value):
        return
    ledger = open_commands_ledger()
    tenant_id = tenant_of(ledger, job_id)
    _print_state(resolve_effect(ledger, None, tenant_id, job_id, effect, happened=happened, receipt=value, by=who()))
