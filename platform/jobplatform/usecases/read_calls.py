"""Read jobs that are calls of an existing Celery app's tasks, with the data that `AsyncResult` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

from jobplatform.domain.jobs import JobView
from jobplatform.domain.states import State
from jobplatform.ledger import jobs, runs, workflows
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.resolve_payload import fill_references

#: maximum length of a chain of replacements: a task may be replaced by a task that is replaced in turn
MAX_REPLACED = 1000


@dataclass(frozen=True)
class CallView:
    """A job, its arguments, and the results of the tasks that it called. `job` is the job that replaced it, if any."""

    job: JobView
    args: Any = None
    kwargs: Any = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    children: list[Any] = field(default_factory=list)
    #: False for the body of a chord whose header never started, because a step before it failed
    chord_has_begun: bool = True


def find_call(ledger: Ledger, job_id: UUID) -> CallView | None:
    """Return a job of any tenant, for the platform's own processes; None when there is no such id."""
    with ledger.statement() as connection:
        job = jobs.find_job(connection, job_id)
        if job is None:
            return None
        payload = jobs.payload_of(connection, job_id, job.completed_at)
        if not isinstance(payload, Mapping) or not isinstance(payload.get("headers"), Mapping):
            return CallView(job)
        headers = payload["headers"].get("$literal", payload["headers"])
        children = list(headers.get("children") or ())
        if job.state in (State.SUCCEEDED, State.DEAD):
            children += runs.children_of(connection, job_id)
        ends = job
        for _ in range(MAX_REPLACED):
            replacement_id = workflows.replacement_of(connection, ends.id) if ends.workflow_id is not None else None
            if replacement_id is None:
                break
            following = jobs.find_job(connection, replacement_id)
            if following is None:  # a group: its list is the result
                gate = workflows.read_gate(connection, replacement_id)
                state = _GATE_STATES.get(gate.state, State.RUNNING)
                ends = replace(ends, state=state, result=gate.value, error=gate.error, workflow_id=None)
            else:
                ends = following
        if ends is not job:
            job = replace(job, state=_seen(ends.state), result=ends.result, error=ends.error, progress=ends.progress)
        given = {"args": payload.get("args"), "kwargs": payload.get("kwargs")}
        given = fill_references(given, partial(workflows.resolve_references, connection, job_id))
        begun = not headers.get("of_chord") or job.error is None or workflows.chord_has_begun(connection, job_id)
    return CallView(job, given["args"], given["kwargs"], headers, children, begun)


def find_replacement(ledger: Ledger, job_id: UUID) -> UUID | None:
    """Return the step whose result stands for a replaced task's; None if it was not replaced."""
    with ledger.statement() as connection:
        return workflows.replacement_of(connection, job_id)


def find_members(ledger: Ledger, group_id: UUID) -> list[UUID]:
    """Return the jobs whose results a group's gate collects, in order; empty if it is not a group."""
    with ledger.statement() as connection:
        return workflows.members_of(connection, group_id)


_GATE_STATES = {"done": State.SUCCEEDED, "cancelled": State.CANCELLED}


def _seen(state: State) -> State:
    """A replaced task counts as running while its replacement waits."""
    return State.RUNNING if state in (State.BLOCKED, State.SCHEDULED, State.AVAILABLE, State.DISPATCHED) else state
