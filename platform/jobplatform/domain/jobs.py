"""A job as data: the command that submits one, and the view that callers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class JobView:
    """A job as callers see it; the field names are the API's."""

    id: UUID
    kind: str
    queue: str
    state: State
    priority: int
    attempt: int
    max_attempts: int
    run_no: int
    created_at: datetime
    run_at: datetime
    progress: Mapping[str, Any] | None = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()
    start_by: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    workflow_id: UUID | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The public status of the state."""
        return status_of(self.state, self.run_no)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the API."""
        return {
            "id": str(self.id),
            "kind": self.kind,
            "queue": self.queue,
            "state": self.state.value,
            "status": self.status.value,
            "priority": self.priority,
            "attempt": self.attempt,
            "max_attempts": self.max_attempts,
            "progress": self.progress,
            "result": self.result,
            "error": self.error,
            "tags": list(self.tags),
            "created_at": self.created_at,
            "run_at": self.run_at,
            "start_by": self.start_by,
            "started_at": self.started_at,
            "completed_at": self.completed_at,
            "cancel_requested_at": self.cancel_requested_at,
            "workflow_id": self.workflow_id,
        }
