"""`jobplatform jobs list`, `show` and `events`: read jobs over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.options import MOMENT

COLOURS = {
    "succeeded": "green",
    "dead": "red",
    "running": "cyan",
    "held": "yellow",
    "cancelled": "dim",
    "expired": "dim",
}


@click.command("list")
@click.option("--state", help="like dead")
@click.option("--kind")
@click.option("--queue")
@click.option("--tag")
@click.option("--error-code", "--code", "error_code", help="of the last error, like smtp_refused")
@click.option("--created-after", type=MOMENT)
@click.option("--created-before", type=MOMENT)
@click.option(
    "-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="how many, newest first"
)
@click.option("-q", "--quiet", is_flag=True, help="print ids only")
@options.json_option
def list_jobs(
    state: str | None,
    kind: str | None,
    queue: str | None,
    tag: str | None,
    error_code: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    limit: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    \b
    jobplatform jobs list --state dead --error-code smtp_refused
    jobplatform jobs list --kind video.transcode --quiet | xargs jobplatform jobs watch
    """
    from itertools import islice

    from rich.table import Table

    wanted: dict[str, Any] = {
        "state": state,
        "kind": kind,
        "queue": queue,
        "tag": tag,
        "error_code": error_code,
        "created_after": created_after,
        "created_before": created_before,
    }
    with http.connect() as client:
        page = list(islice(client.iter_jobs(page_size=min(limit, 200), **wanted), limit))
    if quiet:
        for job in page:
            click.echo(job.id)
        return
    if as_json:
        output.print_json([job.raw for job in page])
        return
    table = Table("id", "kind", "state", "attempt", "created", "why")
    for job in page:
        why = (job.error or {}).get("code") if job.state != "succeeded" else None
        attempt = f"{job.attempt} of {job.max_attempts}"
        table.add_row(
            str(job.id), job.kind, coloured(job.state), attempt, output.when(job.created_at), output.plain(why)
        )
    output.print_table(table)


@click.command()
@click.argument("job_id", type=click.UUID)
@options.json_option
def show(job_id: UUID, as_json: bool) -> None:
    """Show a job: where it is, its runs, and its result."""
    from rich.table import Table

    job = http.call_api("GET", f"/v1/jobs/{job_id}")
    if as_json:
        output.print_json(job)
        return
    runs = http.call_api("GET", f"/v1/jobs/{job_id}/runs")["runs"]
    click.echo(f"{job['id']}  {job['kind']}  priority {job['priority']}  {' '.join(job['tags'])}".rstrip())
    table = Table.grid(padding=(0, 2))
    table.add_row("state", coloured(job["state"]))
    for name in ("created_at", "run_at", "start_by", "started_at", "completed_at", "workflow_id"):
        value = job.get(name)
        if value is not None:
            table.add_row(name.removesuffix("_at"), output.when(value) if name != "workflow_id" else value)
    if job["error"] and job["state"] != "succeeded":
        table.add_row("error", output.plain(f"{job['error'].get('code')}: {job['error'].get('message')}"))
    output.print_table(table)
    if runs:
        shown = Table("run", "attempt", "outcome", "began", "seconds", "why")
        for run in runs:
            seconds = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
            why = (run["error"] or {}).get("message")
            began = output.when(run["started_at"])
            row = (run["run_no"], run["attempt"], run["outcome"], began, f"{seconds.total_seconds():.3f}", why)
            shown.add_row(*map(output.plain, row))
        output.print_table(shown)
    if job["result"] is not None:
        output.print_json(job["result"])


@click.command()
@click.argument("job_id", type=click.UUID)
@options.json_option
def events(job_id: UUID, as_json: bool) -> None:
    """Print the history of a job, one line per event."""
    import orjson

    with http.connect() as client:
        page = client.events(job_id)
    if as_json:
        output.print_json(page)
        return
    for item in page:
        data = orjson.dumps(item["data"]).decode() if item["data"] else ""
        click.echo(f"{item['at']}  {item['event']:<16} {item['state']:<11} {data}".rstrip())


def coloured(state: str) -> str:
    """Return a state as rich shows it."""
    return f"[{COLOURS[state]}]{state}[/]" if state in COLOURS else state
