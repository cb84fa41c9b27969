"""A job as data: the command that submits one, and the view that callers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from jobplatform.domain.states import State, Status, status_of

MAX_PRIORITY = 9
DEFAULT_PRIORITY = 4


@dataclass(frozen=True)
class Unique:
    """Submissions of a tenant with one key share one job, while it is live or for a period.

    `seconds`: the period, from its acceptance; None: until it has ended (a dead letter has not).
    `refuse`: a second submission is an error; else it returns the existing job.
    """

    key: str
    seconds: float | None = None
    refuse: bool = False


@dataclass(frozen=True)
class SubmitJob:
    """A validated submission of a job."""

    kind: str
    payload: Mapping[str, Any]
    priority: int = DEFAULT_PRIORITY
    run_at: datetime | None = None
    start_by: datetime | None = None
    max_attempts: int | None = None
    tags: tuple[str, ...] = ()
    unique: Unique | None = None


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as callers see it: the one definition of the job JSON of API, AMQP and command line.

    The ledger reads a column for each field (`READ_COLUMNS`); the API's model and its `fields` filter are made of them.
    `run_no` is not shown; the status follows from it.
    """

    id: UUID
    kind: str
    queue: str
    state: State
    priority: int
    attempt: int
    max_attempts: int
    progress: Mapping[str, Any] | None = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()
    created_at: datetime
    run_at: datetime
    start_by: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    #: the workflow of which it is a step
    workflow_id: UUID | None = None
    run_no: int

    @property
    def status(self) -> Status:
        """The public status of the state."""
        return status_of(self.state, self.run_no)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        values = {name: getattr(self, name) for name in JSON_FIELDS}
        values["id"], values["tags"] = str(self.id), list(self.tags)
        values["state"], values["status"] = self.state.value, self.status.value
        return values


#: what the ledger reads of `jobs` and `job_history`; the latter's finished_at is `completed_at`
READ_COLUMNS = tuple(item.name for item in fields(JobView) if item.name != "completed_at")
#: names of the job JSON, in its order
JSON_FIELDS = tuple(
    name
    for item in fields(JobView)
    if item.name != "run_no"
    for name in ((item.name, "status") if item.name == "state" else (item.name,))
)
