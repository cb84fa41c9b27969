"""The platform's own jobs: names, schedules, results. Their handlers are in `workers.handlers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobplatform.domain.kinds import Kind
from jobplatform.domain.retry import Steps
from jobplatform.domain.schedules import ScheduleDefinition

#: their tenant; its API keys can read their results
TENANT = "jobplatform"
CLEAN_UP, QUEUE_HEALTH = "platform.clean_up", "platform.queue_health"

SCHEDULES = (
    # by night, and never at the same second on all installations that share a disk
    ScheduleDefinition("clean-up", CLEAN_UP, {}, cron="30 3 * * *", jitter_seconds=600, missed="once"),
    ScheduleDefinition("queue-health", QUEUE_HEALTH, {}, cron="*/15 * * * *", missed="skip", start_within_seconds=600),
)


class NoPayload(BaseModel):
    """An empty payload."""

    model_config = ConfigDict(extra="forbid")


class CleanUp(BaseModel):
    """What a clean-up deleted."""

    partitions: list[str]
    uploads: int
    artifacts: int
    workflows: int
    fires: int
    idempotency_keys: int
    folders: int


class QueueHealth(BaseModel):
    """The state of every queue, and a list of problems."""

    queues: list[dict[str, Any]]
    dead_letters: int
    overdue_seconds: float
    problems: list[str]


def maintenance_kind(name: str, queue: str, handler: Callable[[Any, Any], Any]) -> Kind:
    """Return one of the platform's kinds, on the queue that is to run it."""
    return Kind(
        name=name,
        queue=queue,
        payload=NoPayload,
        handler=handler,
        description=(handler.__doc__ or "").strip(),
        retry=Steps(30, 300, 1800),
        max_attempts=5,
        returns={CLEAN_UP: CleanUp, QUEUE_HEALTH: QueueHealth}[name],
    )
