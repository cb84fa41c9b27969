"""Requests and answers about schedules, as pydantic models."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from api.v1.schemas.base import StrictModel
from jobplatform.domain.jobs import DEFAULT_PRIORITY, MAX_PRIORITY
from jobplatform.domain.schedules import MAX_CATCH_UP, Missed, Overlap, ScheduleDefinition
from jobplatform.domain.submissions import Moment, Tag
from jobplatform.errors import FieldError, InvalidRequest

#: valid names of schedules, in a path
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ScheduleBody(StrictModel):
    """Definition of a schedule: exactly one of `cron`, `every_seconds` and `times`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "kind": "email.send",
                "payload": {
                    "to": ["team@example.com"],
                    "subject": {"$planned_at": "Report of %d %B"},
                    "text": "Good morning",
                },
                "cron": "0 7 * * mon-fri",
                "time_zone": "Europe/Berlin",
            }
        },
    )

    kind: str = Field(min_length=1, max_length=200)
    payload: dict[str, Any] = Field(
        default_factory=dict,
        description='fits the kind\'s schema; {"$planned_at": ""} is the planned time, "%F" in it a form',
    )
    cron: str | None = Field(None, max_length=200, description="five fields, or six with seconds first")
    every_seconds: float | None = Field(None, ge=1, le=366 * 86_400)
    times: list[Moment] = Field(default_factory=list, max_length=1000)
    time_zone: str = Field("UTC", max_length=100, description="of cron and $planned_at, like Europe/Berlin")
    start_at: Moment | None = None
    end_at: Moment | None = None
    jitter_seconds: float = Field(0, ge=0, le=86_400, description="each fire is up to so much later than planned")
    overlap: Overlap = Field("skip", description="when the job of the fire before has not ended")
    missed: Missed = Field("once", description="what happens to fires that were missed while no dispatcher ran")
    catch_up: StrictInt = Field(1, ge=1, le=MAX_CATCH_UP, description="of catch_up: how many, the newest")
    paused: bool | None = Field(None, description="default: as it is")
    priority: StrictInt = Field(DEFAULT_PRIORITY, ge=0, le=MAX_PRIORITY)
    tags: list[Tag] = Field(default_factory=list, max_length=20)
    max_attempts: StrictInt | None = Field(None, ge=1, le=100)
    start_within_seconds: float | None = Field(
        None, gt=0, le=366 * 86_400, description="its job expires that no run has begun so long after the planned time"
    )

    def definition(self, name: str) -> ScheduleDefinition:
        """Return the domain's command."""
        values = self.model_dump()
        return ScheduleDefinition(name=name, **{**values, "times": tuple(self.times), "tags": tuple(self.tags)})


class Schedule(BaseModel):
    """A schedule."""

    id: UUID
    name: str
    in_words: str
    kind: str
    queue: str
    payload: dict[str, Any]
    cron: str | None
    every_seconds: float | None
    times: list[datetime]
    time_zone: str
    start_at: datetime | None
    end_at: datetime | None
    jitter_seconds: float
    overlap: Overlap
    missed: Missed
    catch_up: int
    paused: bool
    paused_at: datetime | None
    priority: int
    tags: list[str]
    max_attempts: int
    start_within_seconds: float | None
    next_at: datetime | None = Field(description="the next planned time; null: there is none any more")
    last_at: datetime | None
    last_job_id: UUID | None
    queued: int = Field(description="fires that wait for the job of the fire before")
    created_at: datetime
    updated_at: datetime
    updated_by: str


class SchedulePage(BaseModel):
    """A page of schedules, in the order of their names."""

    schedules: list[Schedule]
    next_cursor: str | None


class Preview(BaseModel):
    """The next planned times."""

    in_words: str
    times: list[datetime]


class Fire(BaseModel):
    """One planned time of a schedule, and its outcome."""

    planned_at: datetime
    at: datetime
    outcome: Literal["fired", "queued", "skipped", "missed"]
    by: str | None = Field(description="who asked for it; null: its time had come")
    job_id: UUID | None
    missed_until: datetime | None


class FireList(BaseModel):
    """The fires of a schedule, newest first."""

    fires: list[Fire]


class RunNow(BaseModel):
    """The job that was created."""

    job_id: UUID


class SchedulesQuery(StrictModel):
    """Which schedules to list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: str = Field("", description="next_cursor of the page before")


class PreviewQuery(StrictModel):
    """How many times."""

    count: int = Field(20, ge=1, le=1000)


class FiresQuery(StrictModel):
    """Which fires to list."""

    before: Moment | None = None
    limit: int = Field(50, ge=1, le=1000)


def checked_name(name: str) -> str:
    """Return the name of a schedule if it is valid. Raises `InvalidRequest`."""
    if not _NAME.fullmatch(name):
        expected = "letters, digits, '.', '_' and '-', at most 100"
        raise InvalidRequest(f"the name of a schedule: expected {expected}", (FieldError("name", expected, name),))
    return name
