"""`jobplatform jobs submit` and `submit-many`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.options import MOMENT
from jobplatform.cli.payload import read_payload, read_submissions


@click.command()
@click.argument("kind")
@click.argument("fields", nargs=-1)
@click.option("-p", "--payload", metavar="JSON|@FILE|-", help="the payload; - is standard input")
@click.option("--priority", type=click.IntRange(0, 9))
@click.option("--run-at", type=MOMENT, help="do not run before this time, like 2026-01-31T12:00:00Z")
@click.option("--start-by", type=MOMENT, help="expires if no run has started by then")
@click.option("--max-attempts", type=click.IntRange(1, 100))
@click.option("--tag", "tags", multiple=True, help="may be repeated")
@click.option("--unique-key", help="unique key: returns the live job with this key if there is one")
@click.option("--idempotency-key", help="idempotency key: repeating the command returns the same id")
@click.option("--watch", is_flag=True, help="follow it until it ends; exit code 3 when it does not succeed")
@options.json_option
def submit(
    kind: str,
    fields: tuple[str, ...],
    payload: str | None,
    priority: int | None,
    run_at: datetime | None,
    start_by: datetime | None,
    max_attempts: int | None,
    tags: tuple[str, ...],
    unique_key: str | None,
    idempotency_key: str | None,
    watch: bool,
    as_json: bool,
) -> None:
    """Submit a job of KIND and print its id. FIELDS of the payload are name=text or name:=JSON.

    \b
    jobplatform jobs submit email.send to:='["ada@example.com"]' subject=Hello text="Hello Ada"
    jobplatform jobs submit video.transcode source.path=in.mp4 preset=web-360p --watch
    echo '{"messages": [{"role": "user", "content": "Hello?"}]}' | jobplatform jobs submit llm.chat -p -
    """
    from jobplatform.cli.watch import watch_jobs

    values: dict[str, Any] = {
        "priority": priority,
        "run_at": run_at,
        "start_by": start_by,
        "max_attempts": max_attempts,
        "tags": tags,
        "unique": {"key": unique_key} if unique_key is not None else None,
    }
    with http.connect() as client:
        job = client.submit(kind, read_payload(payload, fields), idempotency_key=idempotency_key, **values)
    if watch:
        watch_jobs([job.id], as_json=as_json)
    elif as_json:
        output.print_json(job.raw)
    else:
        click.echo(job.id)


@click.command("submit-many")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), default="-")
@click.option("--batch-size", default=1000, show_default=True, type=click.IntRange(1, 10_000))
def submit_many(file: Path, batch_size: int) -> None:
    """Submit the job requests in FILE (- is standard input), one JSON object per line. Prints ids as they are accepted.

    \b
    {"kind": "email.send", "payload": {"to": ["ada@example.com"], "subject": "News", "text": "…"}, "tags": ["news"]}

    Each batch is accepted as a whole. A refused batch ends the command; jobs whose ids were printed stay accepted.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    source = click.open_file(str(file), encoding="utf-8")
    total = None
    if file.is_file():  # of a pipe there would be nothing left
        with file.open("rb") as counted:
            total = sum(1 for line in counted if line.strip())
    # on stderr: the ids are the output
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        http.connect() as client,
        Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task("", total=total)
        for job_id in client.submit_many(read_submissions(iter(source), str(file)), batch_size=batch_size):
            click.echo(job_id)
            progress.advance(task)
