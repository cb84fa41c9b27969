"""`jobplatform dead`: dead letters and dead messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import find_tenant_id, open_commands_ledger
from jobplatform.cli.options import MOMENT, Command


def filter_options(command: Command) -> Command:
    """Add the options that filter dead letters."""
    for option in (
        click.option("--died-before", type=MOMENT),
        click.option("--died-after", type=MOMENT),
        click.option("--tag"),
        click.option("--code", "--error-code", "code", help="of the error, like smtp_refused"),
        click.option("--queue"),
        click.option("--kind"),
    ):
        command = option(command)
    return command


@click.group()
def dead() -> None:
    """List and replay dead letters (over HTTP, or with --tenant by the database); read dead messages (database)."""


@dead.command("list")
@filter_options
@click.option(
    "-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="how many, newest first"
)
@click.option("-q", "--quiet", is_flag=True, help="print ids only")
@options.json_option
def list_dead_letters(limit: int, quiet: bool, as_json: bool, **wanted: Any) -> None:
    """List dead letters, newest first, with the reason.

    \b
    jobplatform dead list --code smtp_refused
    jobplatform dead list --kind video.transcode --quiet | xargs -n1 jobplatform jobs replay
    """
    from rich.table import Table

    from jobplatform.client.calls import query_params

    letters: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(letters) < limit:
        asked = query_params(limit=min(200, limit - len(letters)), cursor=cursor, **wanted)
        page = http.call_api("GET", "/v1/dead-letters", params=asked)
        letters += page["dead_letters"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if quiet:
        for letter in letters:
            click.echo(letter["id"])
        return
    if as_json:
        output.print_json(letters)
        return
    table = Table("id", "kind", "queue", "error", "attempts", "died", "why")
    for letter in letters:
        attempts = f"{letter['attempt']} of {letter['max_attempts']}"
        row = (letter["id"], letter["kind"], letter["queue"], letter["code"], attempts, output.when(letter["died_at"]))
        table.add_row(*map(output.plain, (*row, letter["message"])))
    output.print_table(table)


@dead.command()
@filter_options
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 10_000), help="how many, oldest first")
@click.option("--rate", type=click.FloatRange(0, 10_000, min_open=True), help="jobs per second  [default: all at once]")
@click.option("--stop-after", default=10, show_default=True, help="stop after this many repeated failures; 0: never")
@click.option("--yes", is_flag=True, help="replay them; without it, only show the preview")
@options.tenant_option
def replay(
    kind: str | None,
    queue: str | None,
    code: str | None,
    tag: str | None,
    died_after: datetime | None,
    died_before: datetime | None,
    limit: int,
    rate: float | None,
    stop_after: int,
    yes: bool,
    tenant: str | None,
) -> None:
    """Replay the dead letters that match. Shows a preview; --yes replays them.

    `jobplatform dead list` lists them.
    """
    wanted = (kind, queue, code, tag, died_after, died_before)
    if tenant is None:
        names = ("kind", "queue", "code", "tag", "died_after", "died_before")
        chosen = {name: value for name, value in zip(names, wanted, strict=True) if value is not None}
        body = {"filter": chosen, "limit": limit, "rate_per_second": rate, "stop_after": stop_after or None}
        _print_answer(http.call_api("POST", "/v1/dead-letters/replay", body={**body, "preview": not yes}))
        return
    from jobplatform.usecases.replay_many import DeadLetterFilter, preview_replay, replay_many

    ledger = open_commands_ledger()
    tenant_id = find_tenant_id(ledger, tenant)
    filtered = DeadLetterFilter(*wanted)
    if not yes:
        _print_answer(preview_replay(ledger, tenant_id, filtered, limit))
    else:
        _print_answer(
            replay_many(
                ledger,
                tenant_id,
                filtered,
                limit=limit,
                rate_per_second=rate,
                stop_after=stop_after or None,
                by=who(),
            )
        )


def _print_answer(answer: dict[str, Any]) -> None:
    """Print a replay, or the preview of one."""
    from rich.table import Table

    if "id" in answer:
        click.echo(f"replay {answer['id']}: {answer['chosen']:,} jobs; follow it with GET /v1/replays/{answer['id']}")
        return
    table = Table("kind", "queue", "error", "jobs", "first died", "last died")
    for group in answer["groups"]:
        first, last = output.when(group["first_died_at"]), output.when(group["last_died_at"])
        row = (group["kind"], group["queue"], group["code"], f"{group['jobs']:,}", first, last)
        table.add_row(*map(output.plain, row))
    output.print_table(table)
    click.echo(f"{answer['jobs']:,} dead letters; run it again with --yes to replay them")


@dead.command()
@click.option("--reason", type=click.Choice(["malformed", "no_job", "refused", "stale"]))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option("--below", type=int, help="continue below this id")
def messages(reason: str | None, limit: int, below: int | None) -> None:
    """List dead messages, newest first: messages from RabbitMQ that belonged to no live dispatch (database)."""
    from rich.table import Table

    from jobplatform.ledger.dead_messages import list_dead_messages

    with open_commands_ledger().statement() as connection:
        rows = list_dead_messages(connection, below, limit, reason)
    table = Table("number", "at", "queue", "reason", "what", "bytes")
    for row in rows:
        shown = (row.id, f"{row.at:%F %T}", row.queue, row.reason, row.detail, f"{row.body_bytes:,}")
        table.add_row(*map(output.plain, shown))
    output.print_table(table)


@dead.command()
@click.argument("number", type=int)
def message(number: int) -> None:
    """Show one dead message: headers, properties, and the beginning of its body (database)."""
    import orjson

    from jobplatform.ledger.dead_messages import get_dead_message

    with open_commands_ledger().statement() as connection:
        row = get_dead_message(connection, number)
    if row is None:
        raise click.ClickException(f"no dead message {number}; see `jobplatform dead messages`")
    shown = {**row._mapping, "body": bytes(row.body[:2000]).decode(errors="replace")}
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))
