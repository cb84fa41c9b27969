"""`jobplatform webhooks`: manage webhooks over HTTP, with a key that has the scope admin."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any
from uuid import UUID

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.listing import coloured
from jobplatform.cli.options import MOMENT

TEST_SECONDS = 30.0


@click.group()
def webhooks() -> None:
    """Create, list, change, test and replay webhooks (docs/howto/webhooks.md). Requires a key with the scope admin."""


@webhooks.command()
@click.argument("url")
@click.option("--event", "events", multiple=True, help="like job.dead; may be repeated")
@click.option(
    "--kind", "kinds", multiple=True, help="kinds whose events it receives: email.send, 'email.*'  [default: all]"
)
@click.option("--description", default="")
@click.option("--contact", help="e-mail address to notify when it is disabled")
@options.json_option
def create(
    url: str, events: tuple[str, ...], kinds: tuple[str, ...], description: str, contact: str | None, as_json: bool
) -> None:
    """Create a webhook, and print its id and its secret. The secret can't be read later."""
    body: dict[str, Any] = {"url": url, "description": description}
    body |= {"events": list(events)} if events else {}
    body |= {"kinds": list(kinds)} if kinds else {}
    body |= {"contact": contact} if contact else {}
    made = http.call_api("POST", "/v1/webhooks", body=body)
    if as_json:
        output.print_json(made)
    else:
        click.echo(f"{made['id']} {made['secret']}")


@webhooks.command("list")
@options.json_option
def list_webhooks(as_json: bool) -> None:
    """List webhooks, and whether their deliveries succeed."""
    from rich.table import Table

    rows = http.call_api("GET", "/v1/webhooks")["webhooks"]
    if as_json:
        output.print_json(rows)
        return
    table = Table("id", "url", "events", "kinds", "delivered", "trouble")
    for webhook in rows:
        failing = (
            f"failing since {output.when(webhook['failing_since'])}: {webhook['last_error']}"
            if webhook["failing_since"]
            else ""
        )
        trouble = f"disabled: {webhook['disabled_reason']}" if not webhook["enabled"] else failing
        kinds = ", ".join(webhook["kinds"] or ["all"])
        delivered = output.when(webhook["delivered_at"]) or "never"
        table.add_row(
            webhook["id"], *map(output.plain, (webhook["url"], ", ".join(webhook["events"]), kinds, delivered, trouble))
        )
    output.print_table(table)


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@click.option(
    "-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 200), help="how many, newest first"
)
@options.json_option
def messages(webhook_id: UUID, limit: int, as_json: bool) -> None:
    """List the messages of a webhook and the state of their delivery."""
    from rich.table import Table

    rows = http.call_api("GET", f"/v1/webhooks/{webhook_id}/messages", params={"limit": limit})["messages"]
    if as_json:
        output.print_json(rows)
        return
    table = Table("message", "type", "job", "at", "state", "attempts", "answer")
    for item in rows:
        said = (item["error"] or {}).get("message") or (item["answer"] or {}).get("status")
        row = (
            item["id"],
            item["type"],
            item["about"] or "",
            output.when(item["created_at"]),
            coloured(item["state"] or "?"),
        )
        table.add_row(*row, output.plain(item["attempts"]), output.plain(said))
    output.print_table(table)


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@options.json_option
def test(webhook_id: UUID, as_json: bool) -> None:
    """Send a test message and print the response. Exit code 3 when it was not delivered."""
    from jobplatform.client import WaitTimeout

    with http.connect() as client:
        made = client.call("POST", f"/v1/webhooks/{webhook_id}/test")
        try:
            job = client.wait(made["job_id"], timeout=TEST_SECONDS)
        except WaitTimeout as error:
            click.echo(f"not taken yet: {error}", err=True)
            sys.exit(options.EXIT_NO_SUCCESS)
    if as_json:
        output.print_json(job.raw)
    elif job.succeeded:
        click.echo(f"taken: {job.result['status']} in {job.result['seconds']} s")
    else:
        click.echo(f"not taken: {(job.error or {}).get('message')}", err=True)
    if not job.succeeded:
        sys.exit(options.EXIT_NO_SUCCESS)


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@click.option("--since", type=MOMENT, help="replay undelivered events since then, like 2026-01-31T12:00:00Z")
@click.option("--everything", is_flag=True, help="with --since: delivered events too")
@click.option("--message", type=click.UUID, help="redeliver this message only")
def replay(webhook_id: UUID, since: datetime | None, everything: bool, message: UUID | None) -> None:
    """Redeliver one message, or replay the events since a time."""
    if (since is None) == (message is None):
        raise click.UsageError("expected --since or --message")
    if message is not None:
        result = http.call_api("POST", f"/v1/webhooks/{webhook_id}/messages/{message}/replay")
        click.echo(f"{message} is delivered again by job {result['job_id']}")
        return
    with http.connect() as client:
        path = f"/v1/webhooks/{webhook_id}"
        result = client.call("POST", f"{path}/replay", body={"since": since, "everything": everything})
        while result["replaying"] and result["enabled"]:
            time.sleep(0.3)
            result = client.call("GET", path)
    if not result["enabled"]:
        raise click.ClickException(f"it was disabled meanwhile: {result['disabled_reason']}")
    click.echo("all that has happened since then is on its way; `jobplatform webhooks messages` shows it")


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@click.option("--enable/--disable", default=None, help="a re-enabled webhook receives new events only")
@click.option("--url")
@click.option("--contact")
def change(webhook_id: UUID, enable: bool | None, url: str | None, contact: str | None) -> None:
    """Enable or disable a webhook, or change its URL or contact."""
    given = {"enabled": enable, "url": url, "contact": contact}
    body = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise click.UsageError("expected something to change: --enable, --disable, --url or --contact")
    result = http.call_api("PATCH", f"/v1/webhooks/{webhook_id}", body=body)
    click.echo(f"{webhook_id} is {'enabled' if result['enabled'] else 'disabled'}: {result['url']}")


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, 31 * 24),
    default=24,
    show_default=True,
    help="hours during which both sign",
)
def rotate(webhook_id: UUID, overlap_hours: float) -> None:
    """Rotate the secret and print the new one."""
    click.echo(
        http.call_api("POST", f"/v1/webhooks/{webhook_id}/rotate", body={"overlap_seconds": overlap_hours * 3600})[
            "secret"
        ]
    )


@webhooks.command()
@click.argument("webhook_id", type=click.UUID)
def delete(webhook_id: UUID) -> None:
    """Delete a webhook."""
    http.call_api("DELETE", f"/v1/webhooks/{webhook_id}")
    click.echo(f"{webhook_id} is gone")
