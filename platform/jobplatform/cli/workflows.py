"""`jobplatform workflows`: submit, follow, draw and control workflows."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from jobplatform.cli import http, options, output
from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import open_commands_ledger
from jobplatform.cli.listing import coloured
from jobplatform.cli.payload import parse_object, read_source

if TYPE_CHECKING:
    from jobplatform.ledger.session import Ledger

#: steps that `show` prints
SHOWN = 200
POLL_SECONDS = 0.5


@click.group()
def workflows() -> None:
    """Submit, list, show, draw, watch, cancel or replay workflows.

    Over HTTP, with JOBPLATFORM_URL and JOBPLATFORM_API_KEY. Without a key, or with --database, `show`, `cancel` and
    `replay` use the database, regardless of tenant.
    """


def _tenant_of(ledger: Ledger, workflow_id: UUID) -> UUID:
    from jobplatform.errors import WorkflowNotFound
    from jobplatform.ledger.workflows import find_tenant

    with ledger.statement() as connection:
        tenant_id = find_tenant(connection, workflow_id)
    if tenant_id is None:
        raise WorkflowNotFound(workflow_id)
    return tenant_id


def _by_http(database: bool) -> bool:
    return http.has_key() and not database


def _print_state(workflow: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{count:,} {state}" for state, count in workflow["steps"].items())
    click.echo(f"{workflow['id']} is {workflow['state']}, {workflow['progress']:.0%}: {counts}")


@workflows.command()
@click.argument("definition", metavar="JSON|@FILE|-")
@click.option("--idempotency-key", help="idempotency key: repeating the command returns the same id")
@click.option("--watch", "watching", is_flag=True, help="follow it until it ends; exit code 3 when it does not succeed")
@options.json_option
def submit(definition: str, idempotency_key: str | None, watching: bool, as_json: bool) -> None:
    """Submit a workflow, as `POST /v1/workflows` takes it, and print its id.

    \b
    jobplatform workflows submit @welcome.json --watch
    """
    from uuid import uuid4

    body = parse_object(read_source(definition), "the workflow")
    with http.connect() as client:
        result = client.call("POST", "/v1/workflows", body=body, idempotency_key=idempotency_key or str(uuid4()))
    if watching:
        _watch(UUID(result["id"]), as_json)
    elif as_json:
        output.print_json(result)
    else:
        click.echo(result["id"])


@workflows.command("list")
@click.option("--state", type=click.Choice(["running", "stopping", "succeeded", "failed", "cancelled"]))
@click.option(
    "-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 200), help="how many, newest first"
)
@options.json_option
def list_workflows(state: str | None, limit: int, as_json: bool) -> None:
    """List workflows, newest first."""
    from rich.table import Table

    rows = http.call_api("GET", "/v1/workflows", params={"state": state, "limit": limit})["workflows"]
    if as_json:
        output.print_json(rows)
        return
    table = Table("id", "name", "state", "accepted", "why")
    for workflow in rows:
        why = (workflow["error"] or {}).get("message")
        row = (
            workflow["id"],
            output.plain(workflow["name"]),
            coloured(workflow["state"]),
            output.when(workflow["created_at"]),
            output.plain(why),
        )
        table.add_row(*row)
    output.print_table(table)


@workflows.command()
@click.argument("workflow_id", type=click.UUID)
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="write the graph as SVG to this file")
@options.database_option
@options.json_option
def show(workflow_id: UUID, svg: Path | None, database: bool, as_json: bool) -> None:
    """Show a workflow: its progress, and the graph of its steps."""
    graph = _graph(workflow_id, database)
    if svg is not None:
        from jobplatform.observe.graph_svg import draw

        svg.write_text(draw(graph))
        click.echo(f"written: {svg}")
        return
    if as_json:
        output.print_json(graph)
        return
    _print_state(graph["workflow"])
    if graph["workflow"]["error"]:
        click.echo(f"why: {graph['workflow']['error'].get('message')}")
    _draw(graph)


def _graph(workflow_id: UUID, database: bool) -> dict[str, Any]:
    if _by_http(database):
        result: dict[str, Any] = http.call_api("GET", f"/v1/workflows/{workflow_id}/graph")
        return result
    from jobplatform.usecases.read_workflows import read_graph

    ledger = open_commands_ledger()
    return read_graph(ledger, _tenant_of(ledger, workflow_id), workflow_id).as_dict()


def _draw(graph: Mapping[str, Any]) -> None:
    from rich.table import Table

    from jobplatform.observe.graph_text import draw_lines

    lines = draw_lines(graph)
    if lines is None:
        click.echo("its graph is too wide for a terminal: --svg draws it")
        lines = [("●", [node]) for node in graph["nodes"]]
    table = Table.grid(padding=(0, 2))
    for lanes, nodes in lines[:SHOWN]:
        table.add_row(lanes, *(_line(nodes) if nodes else ()))
    output.print_table(table)
    if len(lines) > SHOWN:
        click.echo(f"and {len(lines) - SHOWN:,} more lines: --json or --svg has them")


def _line(nodes: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """Name, kind, state, attempt or progress of a step, or of a group of similar steps."""
    first = nodes[0]
    kind = output.plain(first["kind"] or f"({first['type']})")
    if len(nodes) == 1:
        attempt = f"attempt {first['attempt']}" if (first["attempt"] or 0) > 1 else ""
        why = (first["error"] or {}).get("message") if first["state"] in ("dead", "failed", "held") else ""
        return output.plain(first["name"]), kind, coloured(first["state"]), attempt or output.plain(why)
    counts = Counter(node["state"] for node in nodes)
    states = ", ".join(f"{count:,} {coloured(state)}" for state, count in counts.most_common())
    return output.plain(f"{first['name']} … {nodes[-1]['name']}"), kind, states, f"{len(nodes):,} alike"


@workflows.command()
@click.argument("workflow_id", type=click.UUID)
@options.json_option
def watch(workflow_id: UUID, as_json: bool) -> None:
    """Follow a workflow until it ends. Exit code 3 when it does not succeed."""
    _watch(workflow_id, as_json)


def _watch(workflow_id: UUID, as_json: bool) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    interactive = sys.stdout.isatty() and not as_json
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    line = ""
    with http.connect() as client, Progress(*columns, disable=not interactive) as bar:
        task = bar.add_task("…", total=1.0)
        while True:
            result = client.call("GET", f"/v1/workflows/{workflow_id}")
            counts = ", ".join(f"{count:,} {state}" for state, count in result["steps"].items())
            bar.update(task, completed=result["progress"], description=f"{result['state']}: {counts}")
            if not interactive and not as_json and line != (line := f"{result['state']} {result['progress']:.0%}"):
                click.echo(f"{workflow_id} {line}: {counts}")
            if result["completed_at"]:
                break
            time.sleep(POLL_SECONDS)
    if as_json:
        output.print_json(result)
    elif result["error"]:
        click.echo(f"why: {result['error'].get('message')}")
    if result["state"] != "succeeded":
        sys.exit(options.EXIT_NO_SUCCESS)


@workflows.command()
@click.argument("workflow_id", type=click.UUID)
@click.option("--reason", help="stored in its error and in the history of its jobs")
@options.database_option
def cancel(workflow_id: UUID, reason: str | None, database: bool) -> None:
    """Cancel a workflow: waiting jobs at once, running ones after a grace period."""
    if _by_http(database):
        body = {"reason": reason} if reason else {}
        _print_state(http.call_api("POST", f"/v1/workflows/{workflow_id}/cancel", body=body))
        return
    from jobplatform.usecases.cancel_workflow import cancel_workflow

    ledger = open_commands_ledger()
    tenant_id = _tenant_of(ledger, workflow_id)
    _print_state(cancel_workflow(ledger, tenant_id, workflow_id, reason=reason, by=who()).as_dict())


@workflows.command()
@click.argument("workflow_id", type=click.UUID)
@click.option("--reason", help="stored in the history of its jobs")
@options.database_option
def replay(workflow_id: UUID, reason: str | None, database: bool) -> None:
    """Replay a workflow from the steps that failed. Completed steps are not repeated."""
    if _by_http(database):
        body = {"reason": reason} if reason else {}
        _print_state(http.call_api("POST", f"/v1/workflows/{workflow_id}/replay", body=body))
        return
    from jobplatform.usecases.replay_workflow import replay_workflow

    ledger = open_commands_ledger()
    workflow = replay_workflow(ledger, None, _tenant_of(ledger, workflow_id), workflow_id, by=who(), reason=reason)
    _print_state(workflow.as_dict())
