"""The client's data classes: job requests, jobs, events, artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from jobplatform.client.errors import JobFailed


@dataclass(frozen=True)
class JobRequest:
    """A job to submit; `unique` is `{"key": …, "seconds": …, "on_conflict": …}` as in the API."""

    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None
    run_at: datetime | None = None
    start_by: datetime | None = None
    max_attempts: int | None = None
    tags: Sequence[str] = ()
    unique: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the API's JSON form, without unset fields."""
        values: dict[str, Any] = {"kind": self.kind, "payload": self.payload}
        for name in ("priority", "run_at", "start_by", "max_attempts", "unique"):
            value = getattr(self, name)
            if value is not None:
                values[name] = value.isoformat() if isinstance(value, datetime) else value
        if self.tags:
            values["tags"] = list(self.tags)
        return values


@dataclass(frozen=True)
class Job:
    """A snapshot of a job. `raw` is the API's whole answer; later versions may have more fields."""

    id: UUID
    kind: str
    queue: str
    state: str
    #: pending · processing · completed · failed
    status: str
    priority: int
    attempt: int
    max_attempts: int
    progress: Mapping[str, Any] | None
    result: Any
    error: Mapping[str, Any] | None
    tags: tuple[str, ...]
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether it has ended, or is a dead letter that waits for an operator."""
        return self.status in ("completed", "failed")

    @property
    def succeeded(self) -> bool:
        """Whether it has succeeded."""
        return self.state == "succeeded"

    def value(self) -> Any:
        """Return its result. Raises `JobFailed` when it has not succeeded."""
        if self.ended and not self.succeeded:
            raise JobFailed(self)
        return self.result


def read_job(raw: Mapping[str, Any]) -> Job:
    """Return a job from the API's JSON."""
    return Job(
        id=UUID(raw["id"]),
        kind=raw["kind"],
        queue=raw["queue"],
        state=raw["state"],
        status=raw["status"],
        priority=raw["priority"],
        attempt=raw["attempt"],
        max_attempts=raw["max_attempts"],
        progress=raw["progress"],
        result=raw["result"],
        error=raw["error"],
        tags=tuple(raw["tags"]),
        created_at=read_time(raw["created_at"]),
        run_at=read_time(raw["run_at"]),
        started_at=read_time(raw["started_at"]) if raw["started_at"] else None,
        completed_at=read_time(raw["completed_at"]) if raw["completed_at"] else None,
        raw=raw,
    )


@dataclass(frozen=True)
class JobEvent:
    """An event of one job's stream: an event of its history, `progress`, or `end` with the whole job in `data`."""

    name: str
    data: Mapping[str, Any]
    #: id of an event of the history: a stream can be resumed after it
    id: str | None = None

    @property
    def text(self) -> str:
        """The text of an `output` event, or the message of a `log` event; else empty."""
        result = self.data.get("data") or {}
        return str(result.get("text") or result.get("message") or "") if self.name in ("output", "log") else ""

    @property
    def job(self) -> Job | None:
        """The job, in the `end` event."""
        return read_job(self.data) if self.name == "end" else None


@dataclass(frozen=True)
class TenantEvent:
    """An event of the tenant's feed."""

    id: str
    name: str
    job_id: UUID
    kind: str | None
    queue: str | None
    state: str
    at: datetime
    data: Any


def read_event(raw: Mapping[str, Any]) -> TenantEvent:
    """Return an event of a feed from the API's JSON."""
    return TenantEvent(
        id=raw["id"],
        name=raw["event"],
        job_id=UUID(raw["job_id"]),
        kind=raw["kind"],
        queue=raw["queue"],
        state=raw["state"],
        at=read_time(raw["at"]),
        data=raw["data"],
    )


@dataclass(frozen=True)
class Artifact:
    """A file: an upload, or an output of a job."""

    id: UUID
    name: str
    content_type: str
    #: bytes
    size: int
    sha256: str


def read_artifact(raw: Mapping[str, Any]) -> Artifact:
    """Return an artifact from the API's JSON."""
    return Artifact(UUID(raw["id"]), raw["name"], raw["content_type"], raw["size"], raw["sha256"])


def read_time(text: str) -> datetime:
    """Return a time of the API."""
    return datetime.fromisoformat(text)
