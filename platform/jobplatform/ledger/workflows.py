"""Queries on workflows: accept, cancel, replay and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
import psycopg2.errors
from sqlalchemy import Connection, Row, text

from jobplatform.errors import StepIdTaken
from jobplatform.ledger.session import Ledger


class Created(NamedTuple):
    """Result of `create_workflow`; see there for the verdicts."""

    verdict: Literal["accepted", "repeated", "conflict", "quota"]
    workflow_id: Any
    woken: str | None
    quota_queue: str
    quota_seconds: float | None


def create_workflow(
    ledger: Ledger,
    *,
    tenant_id: UUID,
    idempotency_key: str | None,
    request_hash: bytes | None,
    idempotency_seconds: int,
    workflow_id: UUID,
    name: str,
    time_limit_seconds: float | None,
    pending: int,
    steps: bytes,
) -> Created:
    """Call `create_workflow`: one transaction. Raises `StepIdTaken` for a step id that already exists."""
    try:
        (row,) = ledger.call(
            "create_workflow",
            tenant_id,
            idempotency_key,
            request_hash,
            idempotency_seconds,
            workflow_id,
            name,
            time_limit_seconds,
            pending,
            steps.decode(),
        )
    except psycopg2.errors.UniqueViolation as error:
        raise StepIdTaken(error.diag.message_detail or "") from None
    return Created(*row)


_VIEW = "id, name, state, error, time_limit_seconds, deadline_at, created_at, ended_at"
_GET = text(f"SELECT {_VIEW} FROM workflows WHERE id = :id AND tenant_id = :tenant_id")


def get_workflow(connection: Connection, tenant_id: UUID, workflow_id: UUID) -> Row[Any] | None:
    """Return a workflow's own row."""
    return connection.execute(_GET, {"id": workflow_id, "tenant_id": tenant_id}).one_or_none()


def find_tenant(connection: Connection, workflow_id: UUID) -> UUID | None:
    """Return the tenant of a workflow."""
    tenant: UUID | None = connection.execute(
        text("SELECT tenant_id FROM workflows WHERE id = :id"), {"id": workflow_id}
    ).scalar_one_or_none()
    return tenant


def list_workflows(
    connection: Connection, tenant_id: UUID, *, state: str | None, below: UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Return workflows of a tenant, newest first."""
    where = ["tenant_id = :tenant_id"]
    if state is not None:
        where.append("state = :state")
    if below is not None:
        where.append("id < :below")
    statement = text(f"SELECT {_VIEW} FROM workflows WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT :limit")
    return connection.execute(statement, {"tenant_id": tenant_id, "state": state, "below": below, "limit": limit}).all()


# jobs by their ids: live ones, and ended ones of the weeks since the workflow began
_STEPS = text(
    """
    SELECT s.id, s.name, s.position, s.type, s.state, s.pending, s.children, s.on_failure, s.item,
           coalesce(j.state, h.state) AS job_state, coalesce(j.kind, h.kind, s.template #>> '{job,kind}') AS kind,
           coalesce(j.queue, h.queue, s.template #>> '{job,queue}') AS queue,
           coalesce(j.attempt, h.attempt) AS attempt, coalesce(j.progress, h.progress) AS progress,
           coalesce(j.error, h.error) AS error, coalesce(j.started_at, h.started_at) AS started_at, h.finished_at,
           j.state_at
    FROM workflow_steps s
    LEFT JOIN jobs j ON j.id = s.id
    LEFT JOIN job_history h ON h.id = s.id AND h.finished_at >= CAST(:since AS timestamptz) - interval '1 day'
    WHERE s.workflow_id = :id ORDER BY s.position LIMIT :limit
    """
)


def steps_of(connection: Connection, workflow_id: UUID, since: Any, limit: int) -> Sequence[Row[Any]]:
    """Return the steps of a workflow in their order, each with its job."""
    return connection.execute(_STEPS, {"id": workflow_id, "since": since, "limit": limit}).all()


def step_ids(connection: Connection, workflow_id: UUID) -> dict[str, UUID]:
    """Return name → id of the steps of a workflow."""
    statement = text("SELECT name, id FROM workflow_steps WHERE workflow_id = :id ORDER BY position")
    return {row.name: row.id for row in connection.execute(statement, {"id": workflow_id})}


_COUNTS = text(
    """
    SELECT s.state, j.state AS job_state, count(*)::integer AS steps
    FROM workflow_steps s LEFT JOIN jobs j ON j.id = s.id
    WHERE s.workflow_id = :id AND s.type = 'job' GROUP BY s.state, j.state
    """
)


def counts_of(connection: Connection, workflow_id: UUID) -> Sequence[Row[Any]]:
    """Return (state, job_state, steps): the number of steps in each state; job_state is None for ended ones."""
    return connection.execute(_COUNTS, {"id": workflow_id}).all()


_CANCEL = text("SELECT verdict, state FROM cancel_workflow(:tenant_id, :id, :reason, :by)")
_STOP = text("SELECT stop_workflow(:id, :limit)")
_REPLAY = text("SELECT verdict, state, woken FROM replay_workflow(:tenant_id, :id, CAST(:data AS jsonb))")


def cancel_workflow(
    connection: Connection, tenant_id: UUID, workflow_id: UUID, reason: str | None, by: str
) -> Row[Any]:
    """Call `cancel_workflow`; returns its verdict and the state."""
    return connection.execute(_CANCEL, {"tenant_id": tenant_id, "id": workflow_id, "reason": reason, "by": by}).one()


def stop_workflow(connection: Connection, workflow_id: UUID, limit: int) -> str:
    """Call `stop_workflow`; returns the state after it."""
    return str(connection.execute(_STOP, {"id": workflow_id, "limit": limit}).scalar_one())


def replay_workflow(connection: Connection, tenant_id: UUID, workflow_id: UUID, data: dict[str, Any]) -> Row[Any]:
    """Call `replay_workflow`; returns its verdict, the state, and the queues that got jobs."""
    encoded = orjson.dumps(data).decode()
    return connection.execute(_REPLAY, {"tenant_id": tenant_id, "id": workflow_id, "data": encoded}).one()


def time_out_workflows(connection: Connection) -> int:
    """Call `time_out_workflows`; returns how many have begun to stop."""
    return int(connection.execute(text("SELECT time_out_workflows()")).scalar_one())


def stopping_workflows(connection: Connection, after: UUID | None, limit: int) -> list[UUID]:
    """Return stopping workflows in the order of their ids, after a given one."""
    statement = text(
        "SELECT id FROM workflows WHERE state = 'stopping' AND (CAST(:after AS uuid) IS NULL OR id > :after) "
        "ORDER BY id LIMIT :limit"
    )
    return list(connection.execute(statement, {"after": after, "limit": limit}).scalars())


def resolve_references(connection: Connection, job_id: UUID, references: Sequence[dict[str, Any]]) -> list[Any] | None:
    """Return the values of a step's references in order; None when the job is no step of a workflow."""
    values: list[Any] | None = connection.execute(
        text("SELECT resolve_references(:id, CAST(:references AS jsonb))"),
        {"id": job_id, "references": orjson.dumps(references).decode()},
    ).scalar_one()
    return values


def step_name(connection: Connection, job_id: UUID) -> str | None:
    """Return the name of a job's step in its workflow."""
    return connection.execute(
        text("SELECT name FROM workflow_steps WHERE id = :id"), {"id": job_id}
    ).scalar_one_or_none()


def replacement_of(connection: Connection, job_id: UUID) -> UUID | None:
    """Return the step whose result stands for this step's, if it was replaced."""
    result: UUID | None = connection.execute(
        text("SELECT result_of FROM workflow_steps WHERE id = :id"), {"id": job_id}
    ).scalar_one_or_none()
    return result


def chord_has_begun(connection: Connection, job_id: UUID) -> bool:
    """Return whether the header of the chord has started whose body this step is; True for any other step."""
    row = connection.execute(
        text("SELECT chord_has_begun(template) FROM workflow_steps WHERE id = :id"), {"id": job_id}
    ).scalar_one_or_none()
    return row is not False


_GATE = text(
    """
    SELECT g.state, CASE WHEN g.state = 'done' THEN step_value(g.workflow_id, g.name, 'results', '{}') END AS value,
           branch_error(g.failed_by, w.created_at - interval '1 day') AS error
    FROM workflow_steps g JOIN workflows w ON w.id = g.workflow_id WHERE g.id = :id
    """
)


def read_gate(connection: Connection, gate_id: UUID) -> Row[Any]:
    """Return a gate's state, the list of its results, and why it was cancelled."""
    return connection.execute(_GATE, {"id": gate_id}).one()


def members_of(connection: Connection, gate_id: UUID) -> list[UUID]:
    """Return the steps that a gate waits for, in the order of their positions."""
    statement = text(
        "SELECT m.id FROM workflow_steps g "
        "JOIN workflow_steps m ON m.workflow_id = g.workflow_id AND g.id = ANY (m.children) "
        "WHERE g.id = :id AND g.type = 'gate' ORDER BY m.position"
    )
    return list(connection.execute(statement, {"id": gate_id}).scalars())


_WAITED_FOR = text(
    """
    SELECT p.name, p.state, p.type, p.id, j.state AS job_state
    FROM workflow_steps s JOIN workflow_steps p ON p.workflow_id = s.workflow_id AND s.id = ANY (p.children)
    LEFT JOIN jobs j ON j.id = p.id
    WHERE s.id = :id AND p.state <> 'done' AND p.position < s.position ORDER BY p.position LIMIT :limit
    """
)


def waited_for(connection: Connection, job_id: UUID, limit: int = 20) -> Sequence[Row[Any]]:
    """Return the steps that a step waits for: name, state, type, id, job_state."""
    return connection.execute(_WAITED_FOR, {"id": job_id, "limit": limit}).all()


def forget_workflows(connection: Connection, days: int, limit: int) -> int:
    """Delete workflows that ended this many days ago and have no live jobs; returns how many."""
    statement = text("SELECT forget_workflows(clock_timestamp() - make_interval(days => :days), :limit)")
    return int(connection.execute(statement, {"days": days, "limit": limit}).scalar_one())
