"""Answers about kinds and queues."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import (
    BaseModel,
    Field,
)


class KindInfo(BaseModel):
    """A kind of job."""

    name: str
    queue: str
    description: str
    max_attempts: int
    soft_limit_seconds: float | None
    hard_limit_seconds: float | None
    payload_schema: dict[str, Any]


class KindList(BaseModel):
    """All kinds."""

    kinds: list[KindInfo]


class QueueInfo(BaseModel):
    """A queue, with the counts of the caller's tenant."""

    name: str
    paused: bool
    paused_until: datetime | None = Field(description="null: until it is resumed")
    accepted: int
    finished: int
    live: int
    waiting: int = Field(description="what a worker could take now: not scheduled, blocked, held or dead")
    scheduled: int
    blocked: int = Field(description="steps of workflows, and jobs whose payload is checked first")
    held: int
    dead: int
    dispatched: int
    running: int
    counts_are_capped: bool = Field(description="more jobs are scheduled, blocked, held or dead than are counted")
    deadlines_met: int = Field(description="jobs with a start_by that began before it")
    deadlines_missed: int = Field(description="jobs that expired")
    workers: int
    slots: int


class QueueList(BaseModel):
    """All queues."""

    queues: list[QueueInfo]
