"""Positions in a tenant's feed of events, and filters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from jobplatform.domain.states import REMARKS, State

_PLACE = re.compile(r"(\d{1,18})-(\d{1,18})\Z")


class FeedPosition(NamedTuple):
    """Position after an event: its transaction and its id. Feeds are ordered by it."""

    tx: int = 0
    id: int = 0

    def __str__(self) -> str:
        return f"{self.tx}-{self.id}"


def read_position(text: str) -> FeedPosition | None:
    """Return the position that the id of an event in a feed encodes; None if it is invalid."""
    match = _PLACE.match(text)
    return FeedPosition(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class FeedEvent:
    """An event of a tenant's feed. `kind` and `queue` are None unless requested, or if the job was deleted."""

    position: FeedPosition
    job_id: UUID
    at: datetime
    event: str
    state: State
    run_no: int
    data: Any
    kind: str | None = None
    queue: str | None = None

    def of_job(self) -> dict[str, Any]:
        """Return the JSON form in a job's own history."""
        return {
            "id": self.position.id,
            "at": self.at,
            "event": self.event,
            "state": self.state.value,
            "run_no": self.run_no,
            "data": self.data,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form in a feed."""
        job = {"job_id": self.job_id, "kind": self.kind, "queue": self.queue}
        return self.of_job() | {"id": str(self.position)} | job


@dataclass(frozen=True)
class Wanted:
    """Filter of a feed; None matches everything. Events without a change of state are included only when named."""

    events: frozenset[str] | None = None
    kinds: frozenset[str] | None = None
    queues: frozenset[str] | None = None
    #: in which the job is after the event
    states: frozenset[str] | None = None

    def fits(self, event: FeedEvent) -> bool:
        """Return whether an event matches."""
        return (
            (event.event in self.events if self.events is not None else event.event not in REMARKS)
            and (self.kinds is None or event.kind in self.kinds)
            and (self.queues is None or event.queue in self.queues)
            and (self.states is None or event.state in self.states)
        )


def moment_of(seconds: float) -> datetime:
    """Return a time given in seconds since 1970."""
    return datetime.fromtimestamp(seconds, tz=UTC)
