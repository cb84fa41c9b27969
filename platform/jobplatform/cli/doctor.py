"""`jobplatform doctor`: find out why jobs do not run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from jobplatform.cli.ledger import open_commands_ledger

if TYPE_CHECKING:
    from uuid import UUID

    from jobplatform.doctor.finding import Finding

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]"}


@click.command()
@click.argument("job_id", type=click.UUID, required=False)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def doctor(job_id: UUID | None, as_json: bool) -> None:
    """Check everything that can keep jobs from running: one line per check, with the command that fixes it (database).

    With JOB_ID it also explains the state of that job. Exit code 1 when a check has failed, else 0.
    Needs the database, RabbitMQ, and the settings of dispatcher and workers.
    """
    import orjson
    from rich.console import Console

    from jobplatform.config import settings
    from jobplatform.doctor.examine import examine

    config, ledger, console = settings(), open_commands_ledger(), Console()
    findings: list[Finding] = []
    for item in examine(ledger, config):
        findings.append(item)
        if not as_json:
            _show(console, item)
    explained = _explain(job_id) if job_id is not None else None
    if as_json:
        answer = {"findings": findings, "job": explained}
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))
    else:
        for line in explained["reasons"] if explained else ():
            console.print(f"job: {line['message']}", highlight=False, markup=False)
            if line["remedy"]:
                console.print(f"     → {line['remedy']}", highlight=False, markup=False)
        count = {level: sum(finding.level == level for finding in findings) for level in MARKS}
        console.print(f"{count['ok']} ok, {count['warning']} warnings, {count['failed']} failed", highlight=False)
    sys.exit(1 if any(finding.level == "failed" for finding in findings) else 0)


def _show(console: object, finding: Finding) -> None:
    from rich.console import Console
    from rich.markup import escape

    assert isinstance(console, Console)
    console.print(
        f"{MARKS[finding.level]} [bold]{escape(finding.check)}[/]: {escape(finding.message)}", highlight=False
    )
    if finding.level != "ok" and finding.remedy:
        console.print(f"  → {escape(finding.remedy)}", highlight=False)


def _explain(job_id: UUID) -> dict[str, list[dict[str, str]]]:
    from jobplatform.cli.jobs import tenant_of
    from jobplatform.config import settings
    from jobplatform.errors import JobPlatformError
    from jobplatform.usecases.explain_job import explain_job

    ledger = open_commands_ledger()
    try:
        result = explain_job(ledger, settings(), tenant_of(ledger, job_id), job_id)
    except JobPlatformError as error:
        return {"reasons": [{"code": error.code, "message": str(error), "remedy": ""}]}
    return {"reasons": [vars(reason) for reason in result.reasons]}
