"""Requests and responses about jobs, as pydantic models: /openapi.json is generated from the models that validate."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    create_model,
    model_validator,
)

from api.v1.schemas.base import Page, PageQuery, StrictModel
from jobplatform.domain.jobs import JSON_FIELDS, MAX_PRIORITY, JobView
from jobplatform.domain.states import State, Status
from jobplatform.domain.submissions import Moment


class CancelBody(StrictModel):
    """Why a job is cancelled."""

    reason: str | None = Field(None, max_length=500)


class ChangeBody(BaseModel):
    """Changes of a job that is not running."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"priority": 9}})

    priority: StrictInt | None = Field(None, ge=0, le=MAX_PRIORITY, description="9 is the most urgent")
    run_at: Moment | None = Field(None, description="not before this time; one that has passed means at once")

    @model_validator(mode="after")
    def _something(self) -> ChangeBody:
        if self.priority is None and self.run_at is None:
            raise ValueError("priority, run_at, or both")
        return self


def _known_fields(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = [item.strip() for item in value.split(",")]
    if unknown := [name for name in names if name not in JSON_FIELDS]:
        raise ValueError(f"fields of a job, with commas between ({', '.join(JSON_FIELDS)}); not {unknown[0]!r}")
    return names


Fields = Annotated[
    list[str] | None,
    BeforeValidator(_known_fields),
    Field(
        description="only these fields, with commas between",
        json_schema_extra={"type": "string", "example": "id,state"},
    ),
]


class WaitQuery(StrictModel):
    """How long to wait for the job to end, and which fields to return."""

    fields: Fields = None
    wait: float = Field(
        0, ge=0, le=60, description="seconds; the answer comes when the job has ended, at the latest then"
    )


class ListQuery(PageQuery):
    """Which jobs to list."""

    state: State | None = None
    kind: str | None = None
    queue: str | None = None
    tag: str | None = None
    error_code: str | None = Field(None, max_length=200, description="of why it failed, or its last run did")
    fields: Fields = None
    created_after: Moment | None = None
    created_before: Moment | None = None


class EventsQuery(StrictModel):
    """Which events to list."""

    after: int = Field(0, ge=0, description="the id of the last event you have")
    limit: int = Field(1000, ge=1, le=1000)


class Progress(BaseModel):
    """Progress of a run."""

    current: float
    total: float | None
    message: str | None


class Failure(BaseModel):
    """Why a job, or its last run, failed."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    retryable: bool


if TYPE_CHECKING:

    class Job(BaseModel):
        """A job: the fields of `JobView`."""

else:
    #: more precise than the types of `JobView`
    _TYPES = {"status": Status, "progress": Progress | None, "error": Failure | None, "tags": list[str]}
    _DESCRIPTIONS = {"workflow_id": "the workflow that it is a step of"}
    _HINTS = get_type_hints(JobView) | _TYPES
    Job = create_model(
        "Job",
        __doc__="A job.",
        **{name: (_HINTS[name], Field(description=_DESCRIPTIONS.get(name))) for name in JSON_FIELDS},
    )


class JobPage(Page):
    """A page of jobs, newest first. It may be short or empty and still have a `next_cursor`."""

    jobs: list[Job]


class Run(BaseModel):
    """One execution of a job."""

    run_no: int
    attempt: int
    outcome: Literal[
        "running", "succeeded", "failed", "timed_out", "snoozed", "released", "held", "crashed", "lost", "cancelled"
    ]
    worker_id: UUID
    dispatched_at: datetime | None
    started_at: datetime
    finished_at: datetime | None
    error: Failure | None
    usage: dict[str, Any] | None


class RunList(BaseModel):
    """The runs of a job, in order."""

    runs: list[Run]


class Event(BaseModel):
    """One event of a job's history."""

    id: int
    at: datetime
    event: str
    state: State
    run_no: int
    data: Any


class EventList(BaseModel):
    """The events of a job, in order."""

    events: list[Event]


class Reason(BaseModel):
    """One reason for the state of a job."""

    code: str = Field(description="stable, like paused, scheduled, no_worker, window_full, waiting")
    message: str
    remedy: str


class HistoryLine(BaseModel):
    """One change of a job's state."""

    at: datetime
    event: str
    state: State
    data: Any


class Explanation(BaseModel):
    """Explanation of a job's state."""

    job_id: UUID
    state: State
    reasons: list[Reason] = Field(description="everything that keeps it from running, in order")
    seconds_in: dict[str, float] = Field(description="state → seconds spent in it so far")
    history: list[HistoryLine]


class EffectLine(BaseModel):
    """One effect of a job. `intended` by a run that has ended means that the outcome is unknown."""

    key: str
    state: Literal["intended", "done", "skipped"]
    run_no: int
    receipt: Any
    intended_at: datetime
    done_at: datetime | None


class EffectList(BaseModel):
    """The effects of a job, in the order in which they were intended."""

    effects: list[EffectLine]
