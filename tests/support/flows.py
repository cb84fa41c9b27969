"""Run workflows on a ledger without broker and workers: available jobs are dispatched, claimed and settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import text

from jobplatform.domain.workflows import Part, SubmitWorkflow
from jobplatform.ledger import runs, workflows
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.runs import Settlement
from jobplatform.usecases.add_steps import AddedSteps
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.stop_workflows import finish_stopping_workflows
from jobplatform.usecases.submit_workflow import submit_workflow
from tests.support.ledger_harness import LedgerHarness, registry

ERROR = {"code": "x", "message": "told to fail", "retryable": False}
#: what a job does when it runs: (name, payload with its references filled in) → (outcome, state, result)
Play = Callable[[str, Any], tuple[str, str, Any]]


def submit(harness: LedgerHarness, flow: Part, **errback_job: Any) -> UUID:
    """Submit a workflow and return its id."""
    return submit_workflow(harness.ledger, None, registry(), harness.tenant_id, SubmitWorkflow(flow, **errback_job)).id


def succeed(name: str, payload: Any) -> tuple[str, str, Any]:
    """Return the payload as the result."""
    return "succeeded", "succeeded", payload


def failing(*names: str) -> Play:
    """Return a play in which these steps die and the others succeed."""
    return lambda name, payload: ("failed", "dead", None) if name in names else succeed(name, payload)


def available(harness: LedgerHarness) -> list[Any]:
    """Return (id, kind, workflow) of the available jobs, in an order that does not matter."""
    return harness.all("SELECT id, kind, workflow_id FROM jobs WHERE state = 'available' ORDER BY id")


def play(harness: LedgerHarness, act: Play = succeed, limit: int = 10_000) -> list[str]:
    """Run available jobs until none is left, at most `limit`; return the names of their steps in order."""
    ran: list[str] = []
    while result := available(harness)[: limit - len(ran)]:
        for job_id, kind, _ in result:
            ran.append(run_one(harness, job_id, kind, act))
        stop_due(harness)
        if len(ran) >= limit:
            break
    return ran


def run_one(harness: LedgerHarness, job_id: UUID, kind: str, act: Play = succeed, added: bytes | None = None) -> str:
    """Run one available job."""
    lease_id = new_id()
    harness.dispatch(job_id)
    claimed = harness.claim(job_id, lease_id, kind=kind)
    assert claimed.verdict == "claimed"
    name = str(step_of(harness, job_id))
    outcome, state, result = act(name, payload_of(harness, job_id, claimed.payload))
    error = None if outcome == "succeeded" else ERROR
    settled = runs.settle_run(
        harness.ledger, job_id, lease_id, Settlement(outcome, state, result=result, error=error, added=added)
    )
    assert settled.verdict == "settled"
    return name


def payload_of(harness: LedgerHarness, job_id: UUID, payload: Any) -> Any:
    """Return a payload with its references filled in."""
    from jobplatform.domain.references import find_references, is_marked, replace_references

    if not is_marked(payload):
        return payload
    references = [result for _, result in find_references(payload)]
    with harness.ledger.statement() as connection:
        values = workflows.resolve_references(connection, job_id, [reference.as_dict() for reference in references])
    assert values is not None
    return replace_references(payload, dict(zip(references, values, strict=True)).__getitem__)


def step_of(harness: LedgerHarness, job_id: UUID) -> str | None:
    """Return the name of a job's step."""
    with harness.ledger.statement() as connection:
        return workflows.step_name(connection, job_id)


def stop_due(harness: LedgerHarness, limit: int = 1000) -> int:
    """Time out and stop workflows as the dispatcher does; return how many are still stopping."""
    with harness.ledger.transaction() as connection:
        workflows.time_out_workflows(connection)
    finish_stopping_workflows(harness.ledger, None, limit, 60)
    return int(harness.all("SELECT count(*)::int FROM workflows WHERE state = 'stopping'")[0])


def state_of(harness: LedgerHarness, workflow_id: UUID) -> str:
    """Return a workflow's state."""
    return str(harness.all("SELECT state FROM workflows WHERE id = :id", id=workflow_id)[0])


def steps_of(harness: LedgerHarness, workflow_id: UUID) -> dict[str, str]:
    """Return name → state of the steps."""
    return dict(
        harness.all("SELECT name, state FROM workflow_steps WHERE workflow_id = :id ORDER BY position", id=workflow_id)
    )


def job_of(harness: LedgerHarness, workflow_id: UUID, name: str) -> UUID:
    """Return the id of a step's job."""
    with harness.ledger.statement() as connection:
        result: UUID = connection.execute(
            text("SELECT id FROM workflow_steps WHERE workflow_id = :w AND name = :n"), {"w": workflow_id, "n": name}
        ).scalar_one()
    return result


def adds_of(harness: LedgerHarness, job_id: UUID, *parts: Part) -> bytes:
    """Return the steps that a run of this job adds, as they are passed to its settle."""
    added = AddedSteps(Delivery(job_id, 1, "test.echo", new_id(), harness.worker.id, "n"), registry())
    added.add(harness.ledger, parts)
    result = added.as_json()
    assert result is not None
    return result


def errback_job(headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a planned job in the form that the ledger expects."""
    return {
        "queue": "email", "kind": "test.echo", "priority": 4, "payload": {"args": [], "headers": headers or {}},
        "tags": [], "max_attempts": 1, "crash_limit": 1, "lost_limit": 1,
    }  # fmt: skip


def replacement_of(harness: LedgerHarness, job_id: UUID) -> tuple[bytes, UUID]:
    """Return the steps that a run adds when it replaces this job by a chain of x and y, and the id of y."""
    delivery = Delivery(job_id, 1, "test.echo", new_id(), harness.worker.id, "n")
    added = AddedSteps(delivery, registry())
    name = added.own_name(harness.ledger)
    x, y = new_id(), new_id()
    base = {**errback_job(), "type": "job", "on_failure": "skip", "item": None, "run_at": None, "start_by": None}
    rows = [
        {**base, "id": str(x), "name": f"{name}/x", "position": 0, "pending": 0, "children": [str(y)], "payload": {}},
        {**base, "id": str(y), "name": f"{name}/y", "position": 1, "pending": 1, "children": [str(job_id)],
         "payload": {"y": 2}},
        # linked to x: not waited for
        {**base, "id": str(new_id()), "name": f"{name}/z", "position": 2, "pending": 1, "children": [], "payload": {}},
    ]  # fmt: skip
    rows[0]["children"].append(rows[2]["id"])
    added.add_planned(harness.ledger, rows, 1, result_of=y)
    result = added.as_json()
    assert result is not None
    return result, y
