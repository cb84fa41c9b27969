"""`jobplatform workflows`: look at a workflow, and do what a person may do to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from jobplatform.cli.jobs import who
from jobplatform.cli.ledger import open_commands_ledger

if TYPE_CHECKING:
    from jobplatform.ledger.session import Ledger
    from jobplatform.usecases.read_workflows import WorkflowView

#: steps that `show` prints
SHOWN = 200


@click.group()
def workflows() -> None:
    """Show, draw, cancel or replay a workflow, of any tenant."""


def _tenant_of(ledger: Ledger, workflow_id: UUID) -> UUID:
    from jobplatform.errors import WorkflowNotFound
    from jobplatform.ledger.workflows import find_tenant

    with ledger.statement() as connection:
        tenant_id = find_tenant(connection, workflow_id)
    if tenant_id is None:
        raise WorkflowNotFound(workflow_id)
    return tenant_id


def _tell(found: WorkflowView) -> None:
    counts = ", ".join(f"{count:,} {state}" for state, count in found.steps.items())
    click.echo(f"{found.id} is {found.state.value}, {found.progress:.0%}: {counts}")


@workflows.command()
@click.argument("workflow_id", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="print the graph as JSON")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="write its picture there")
def show(workflow_id: UUID, as_json: bool, svg: Path | None) -> None:
    """Show a workflow: its progress, and its steps with what they wait for."""
    import orjson
    from rich.console import Console
    from rich.table import Table

    from jobplatform.observe.graph_svg import draw
    from jobplatform.usecases.read_workflows import read_graph

    ledger = open_commands_ledger()
    graph = read_graph(ledger, _tenant_of(ledger, workflow_id), workflow_id)
    if svg is not None:
        svg.write_text(draw(graph.as_dict()))
        click.echo(f"written: {svg}")
        return
    if as_json:
        click.echo(orjson.dumps(graph.as_dict(), option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z))
        return
    _tell(graph.workflow)
    if graph.workflow.error:
        click.echo(f"why: {graph.workflow.error.get('message')}")
    names = {node.id: node.name for node in graph.nodes}
    waits: dict[UUID, list[str]] = {}
    for parent, child in graph.edges:
        waits.setdefault(child, []).append(names[parent])
    table = Table("step", "kind", "state", "attempt", "after")
    for node in graph.nodes[:SHOWN]:
        before = waits.get(node.id, [])
        after = ", ".join(before[:3]) + (f" and {len(before) - 3:,} more" if len(before) > 3 else "")
        table.add_row(node.name, node.kind or f"({node.type})", node.state, str(node.attempt or ""), after)
    Console().print(table)
    if len(graph.nodes) > SHOWN:
        click.echo(f"and {len(graph.nodes) - SHOWN:,} more steps: --json or --svg has them")


@workflows.command()
@click.argument("workflow_id", type=click.UUID)
@click.option("--reason", help="kept in its error and its jobs' histories")
def cancel(workflow_id: UUID, reason: str | None) -> None:
    """Call a workflow off: what waits at once, what runs by its worker."""
    from jobplatform.usecases.cancel_workflow import cancel_workflow

    ledger = open_commands_ledger()
    _tell(cancel_workflow(ledger, _tenant_of(ledger, workflow_id), workflow_id, reason=reason, by=who()))


@workflows.command()
@click.argument("workflow_id", type=click.UUID)
@click.option("--reason", help="kept in its jobs' histories")
def replay(workflow_id: UUID, reason: str | None) -> None:
    """Run a workflow again from the steps that failed: what is done stays done."""
    from jobplatform.usecases.replay_workflow import replay_workflow

    ledger = open_commands_ledger()
    _tell(replay_workflow(ledger, None, _tenant_of(ledger, workflow_id), workflow_id, by=who(), reason=reason))
