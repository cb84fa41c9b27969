"""Read workflows: one with its progress, lists, and the graph of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from jobplatform.domain.states import State
from jobplatform.domain.workflows import WorkflowState
from jobplatform.errors import WorkflowNotFound
from jobplatform.ledger import workflows
from jobplatform.ledger.session import Ledger

#: maximum number of steps in a graph; maps and added steps may exceed it
MAX_NODES = 20_000


@dataclass(frozen=True)
class WorkflowView:
    """A workflow as callers see it; the field names are the API's."""

    id: UUID
    name: str
    state: WorkflowState
    error: Any
    time_limit_seconds: float | None
    deadline_at: datetime | None
    created_at: datetime
    completed_at: datetime | None
    #: number of jobs by state: waiting, scheduled, available, dispatched, running, held, dead; done (or failed and
    #: ignored), cancelled
    steps: dict[str, int]
    #: the fraction of its jobs that have ended, from 0 to 1
    progress: float

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        return asdict(self) | {"id": str(self.id), "state": self.state.value}


@dataclass(frozen=True)
class Node:
    """A step in the graph. `state` is that of its job if it has one; else (gate, map) that of the step."""

    id: UUID
    name: str
    type: str
    state: str
    kind: str | None
    on_failure: str
    attempt: int | None
    progress: Any
    error: Any
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True)
class Graph:
    """The steps of a workflow, and its edges: (parent, child)."""

    workflow: WorkflowView
    nodes: list[Node]
    edges: list[tuple[UUID, UUID]]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        nodes = [asdict(node) | {"id": str(node.id)} for node in self.nodes]
        edges = [{"from": str(parent), "to": str(child)} for parent, child in self.edges]
        return {"workflow": self.workflow.as_dict(), "nodes": nodes, "edges": edges}


def get_workflow(ledger: Ledger, tenant_id: UUID, workflow_id: UUID) -> WorkflowView:
    """Return a workflow. Raises `WorkflowNotFound`, also for another tenant's workflow."""
    with ledger.statement() as connection:
        return view_in(connection, tenant_id, workflow_id)


def view_in(connection: Connection, tenant_id: UUID, workflow_id: UUID) -> WorkflowView:
    """Return a workflow, in the caller's transaction. Raises `WorkflowNotFound`."""
    row = workflows.get_workflow(connection, tenant_id, workflow_id)
    if row is None:
        raise WorkflowNotFound(workflow_id)
    return _view(row, workflows.counts_of(connection, workflow_id))


def list_workflows(
    ledger: Ledger, tenant_id: UUID, *, state: WorkflowState | None, cursor: UUID | None, limit: int
) -> tuple[list[dict[str, Any]], UUID | None]:
    """Return a page of workflows, newest first, without their steps, and the cursor of the next."""
    with ledger.statement() as connection:
        rows = workflows.list_workflows(connection, tenant_id, state=state, below=cursor, limit=limit + 1)
    page = [dict(row._mapping) for row in rows[:limit]]
    for item in page:
        item["completed_at"] = item.pop("ended_at")
    return page, page[-1]["id"] if len(rows) > limit else None


def read_graph(ledger: Ledger, tenant_id: UUID, workflow_id: UUID) -> Graph:
    """Return the graph of a workflow, at most `MAX_NODES` steps of it. Raises `WorkflowNotFound`."""
    with ledger.statement() as connection:
        view = view_in(connection, tenant_id, workflow_id)
        rows = workflows.steps_of(connection, workflow_id, view.created_at, MAX_NODES)
    nodes = [
        Node(
            id=row.id,
            name=row.name,
            type=row.type,
            state=row.job_state or row.state,
            kind=row.kind,
            on_failure=row.on_failure,
            attempt=row.attempt,
            progress=row.progress,
            error=row.error,
            started_at=row.started_at,
            completed_at=row.finished_at,
        )
        for row in rows
    ]
    by_id = {row.id: row for row in rows}
    edges = []
    for row in rows:
        for child in (by_id[item] for item in row.children if item in by_id):
            # steps that were unfolded or added are drawn after the step that did it, although that waits for their end
            added = child.type != "gate" and child.position < row.position
            edges.append((child.id, row.id) if added else (row.id, child.id))
    return Graph(view, nodes, edges)


def _view(row: Row[Any], counted: Sequence[Row[Any]]) -> WorkflowView:
    steps: Counter[str] = Counter()
    over = total = 0
    for item in counted:
        total += item.steps
        if item.job_state is None:
            over += item.steps
            steps["cancelled" if item.state in ("cancelled", "skipped", "failed") else "done"] += item.steps
        else:
            over += item.steps if item.job_state in (State.DEAD, State.HELD) and item.state in ("done", "failed") else 0
            steps["waiting" if item.job_state == State.BLOCKED else item.job_state] += item.steps
    values = dict(row._mapping)
    values["completed_at"] = values.pop("ended_at")
    values["state"] = WorkflowState(values["state"])
    return WorkflowView(**values, steps=dict(sorted(steps.items())), progress=round(over / total, 4) if total else 1.0)
