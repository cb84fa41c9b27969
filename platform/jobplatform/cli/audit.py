"""`jobplatform audit`: check the ledger and RabbitMQ for contradictions."""

from __future__ import annotations

import sys

import click

from jobplatform.cli.ledger import open_commands_ledger


@click.command()
@click.option("--hours", default=24.0, show_default=True, help="check each job submitted in the last … hours")
@click.option(
    "--seconds", default=60.0, show_default=True, help="stop after about this long, and report how far the check got"
)
@click.option("--without-broker", is_flag=True, help="check the ledger only")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def audit(hours: float, seconds: float, without_broker: bool, as_json: bool) -> None:
    """Compare independent records with each other. Exit code 0 when they agree, 1 when not (database).

    Checks accepted = finished + live by counters and rows, each job against its history and runs, and dispatched jobs
    against RabbitMQ's messages. An unreachable RabbitMQ is reported as a finding, after those of the ledger.
    """
    import orjson
    from rich.console import Console
    from rich.table import Table

    from jobplatform.broker.connection import connected
    from jobplatform.config import settings
    from jobplatform.dispatch.audit import Finding, Report, audit_broker, audit_ledger
    from jobplatform.errors import BrokerUnavailable

    config, ledger, progress = settings(), open_commands_ledger(), Console(stderr=True)

    def show_progress(report: Report) -> None:
        if progress.is_terminal and report.checked_since is not None:
            progress.print(f"{report.checked_jobs:,} jobs, back to {report.checked_since:%F %T}", end="\r")

    patience = 3 * config.lease_seconds + 10
    report = audit_ledger(
        ledger, hours=hours, budget_seconds=seconds, patience_seconds=patience, on_progress=show_progress
    )
    if not without_broker:
        try:
            with connected(config.broker_url.get_secret_value(), name="jobplatform audit") as connection:
                report.findings += audit_broker(
                    ledger,
                    connection,
                    config.queues,
                    lease_seconds=config.lease_seconds,
                    settle_seconds=2 * config.heartbeat_seconds,
                    queue_type=config.queue_type,
                )
        except BrokerUnavailable as error:
            detail = f"{error}; the ledger alone was checked (--without-broker asks for that)"
            report.findings.append(Finding(error.code, "RabbitMQ", 1, detail))
    if as_json:
        click.echo(orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))
    else:
        console = Console()
        if report.findings:
            table = Table("found", "where", "how many", "what", "for example")
            for finding in report.findings:
                table.add_row(
                    finding.code, finding.where, f"{finding.count:,}", finding.detail, "\n".join(finding.examples[:3])
                )
            console.print(table)
        since = f" submitted since {report.checked_since:%F %T %Z}" if report.checked_since else ""
        partly = "" if report.complete else f" (time was up: ask for more --seconds to go back {hours:g} h)"
        verdict = "all adds up" if report.is_clean else f"{len(report.findings)} findings"
        console.print(f"{verdict}: {report.checked_jobs:,} jobs{since}{partly}", highlight=False)
    sys.exit(0 if report.is_clean else 1)
