"""Requests and answers about dead letters; see `models`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from api.v1.schemas.base import Page, StrictModel
from jobplatform.domain.submissions import Moment, Tag


class ReplayBody(StrictModel):
    """Why a job is replayed."""

    reason: str | None = Field(None, max_length=500)


class DeadLetterFilter(StrictModel):
    """Filter of dead letters. A missing field matches everything."""

    kind: str | None = Field(None, max_length=200)
    queue: str | None = Field(None, max_length=200)
    code: str | None = Field(None, max_length=200, description="of the error, like smtp_refused")
    tag: Tag | None = None
    died_after: Moment | None = None
    died_before: Moment | None = None


class DeadLettersQuery(DeadLetterFilter):
    """Which dead letters to list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: UUID | None = Field(None, description="next_cursor of the page before")


class DeadLetter(BaseModel):
    """A job that needs an operator, who replays or discards it."""

    id: UUID
    kind: str
    queue: str
    code: str | None = Field(description="of its error")
    message: str | None
    attempt: int
    max_attempts: int
    crashes: int
    losses: int
    priority: int
    tags: list[str]
    created_at: datetime
    died_at: datetime
    workflow_id: UUID | None


class DeadLetterPage(Page):
    """A page of dead letters, newest first. It may be short or empty and still have a `next_cursor`."""

    dead_letters: list[DeadLetter]


class ReplayManyBody(StrictModel):
    """Which dead letters to replay, how many, and how fast."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"filter": {"code": "smtp_unreachable"}, "limit": 500, "rate_per_second": 10, "stop_after": 20}
        },
    )

    filter: DeadLetterFilter = Field(default_factory=DeadLetterFilter)
    preview: bool = Field(False, strict=True, description="only count what would be replayed")
    limit: StrictInt = Field(1000, ge=1, le=10_000, description="the oldest ones first")
    rate_per_second: float | None = Field(None, ge=0.001, le=10_000, description="none: all at once")
    stop_after: StrictInt | None = Field(
        10, ge=1, le=10_000, description="stop when so many have died again: what has not run goes back; null: never"
    )


class DiscardBody(StrictModel):
    """Why a dead letter is discarded."""

    reason: str = Field(min_length=1, max_length=500, description="kept with the job")


class ReplayGroup(BaseModel):
    """Dead letters of the same kind, queue and code."""

    kind: str
    queue: str
    code: str | None
    jobs: int
    first_died_at: datetime
    last_died_at: datetime


class ReplayPreview(BaseModel):
    """What a replay would include."""

    jobs: int
    groups: list[ReplayGroup]


class ResolveBody(StrictModel):
    """Whether the effect that holds a job took place."""

    effect: str = Field(min_length=1, max_length=255, description="its key: see GET /v1/jobs/{id}/effects")
    happened: bool = Field(strict=True, description="false: the next run does it")
    receipt: Any = Field(None, description="what the other side said, for the runs to come")


class Replay(BaseModel):
    """A replay of many dead letters, with its progress."""

    id: UUID
    state: Literal["running", "done", "stopped"]
    filter: dict[str, Any]
    chosen: int
    rate_per_second: float | None
    stop_after: int | None
    died_again: int
    stopped: int = Field(description="put back unrun, because too many had died again")
    created_by: str
    created_at: datetime
    ended_at: datetime | None
