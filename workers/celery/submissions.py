"""Turn a call of a task into the submission of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jobplatform.domain.kinds import FREE_NAME_LOOKS, REGISTRY, Kind, is_free_name
from jobplatform.domain.references import is_marked
from jobplatform.errors import ConfigurationError
from workers.celery.call import Call, in_seconds

#: the kind of the job that calls a failed task's errbacks
ERRBACKS = "celery.errbacks"
#: task that can't be a kind → reason, which its calls raise; workers serve the other tasks
REFUSED_TASKS: dict[str, str] = {}
#: attempts of a call whose task this process does not know; it is dead-lettered if no worker knows it
UNKNOWN_ATTEMPTS = 1


class TaskCall(BaseModel):
    """The payload of a Celery task: its arguments, and headers of its request."""

    model_config = ConfigDict(extra="forbid")

    args: list[Any] = Field(default_factory=list, description="positional arguments")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")
    headers: dict[str, Any] = Field(default_factory=dict, description="Celery's own; leave it out")


def kind_of_call(call: Call) -> Kind:
    """Return the kind of a call on its queue, with defaults for a task that only workers know."""
    if call.name in REFUSED_TASKS:
        raise ConfigurationError(REFUSED_TASKS[call.name])
    if not is_free_name(call.name):
        raise ConfigurationError(
            f"task {call.name!r}: expected a name of {FREE_NAME_LOOKS}. Give the task another name"
        )
    if call.name in REGISTRY:
        return replace(REGISTRY.get(call.name), queue=call.queue)
    return Kind(
        name=call.name,
        queue=call.queue,
        payload=TaskCall,
        handler=lambda payload, ctx: None,
        max_attempts=UNKNOWN_ATTEMPTS,
        free_name=True,
    )


def submission_of(call: Call, kind: Kind, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the submission of a step."""
    now = datetime.now(UTC)
    written = payload if kind.payload is TaskCall else payload["kwargs"]
    known = kind.parse(written) if kind.limit_keys and not is_marked(written) else None
    limit_keys, limit_units = kind.limits_of(known)
    first = not call.after
    return {
        "queue": call.queue,
        "kind": call.name,
        "priority": call.priority,
        "payload": written,
        "tags": [],
        "max_attempts": kind.max_attempts,
        "crash_limit": kind.crash_limit,
        "lost_limit": kind.lost_limit,
        "limit_keys": list(limit_keys),
        "limit_units": list(limit_units),
        "run_at": call.run_at or (in_seconds(call.delay_seconds, now) if first else None),
        "start_by": call.start_by or (in_seconds(call.start_within_seconds, now) if first else None),
    }
