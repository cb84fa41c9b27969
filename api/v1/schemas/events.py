"""Requests and answers on the feed of events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field

from api.v1.schemas.base import StrictModel
from jobplatform.domain.feeds import FeedPosition, Wanted, read_position
from jobplatform.domain.states import Event, State

NOW = "now"


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",")] if isinstance(value, str) else value


def _placed(value: object) -> object:
    if isinstance(value, str) and value not in ("", NOW) and read_position(value) is None:
        raise ValueError("the id of an event, like 123-456, or 'now'")
    return value


Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], BeforeValidator(_split)]


class FeedFilter(StrictModel):
    """Filter of a feed of events."""

    event: Annotated[list[Event], BeforeValidator(_split)] | None = Field(
        None,
        max_length=50,
        description="only these, with commas between; `log` and `output` come only when they are named",
        json_schema_extra={"type": "string", "example": "started,succeeded"},
    )
    state: Annotated[list[State], BeforeValidator(_split)] | None = Field(
        None,
        max_length=50,
        description="only those after which the job is in one of these states, with commas between",
        json_schema_extra={"type": "string", "example": "succeeded,dead"},
    )
    kind: Names | None = Field(
        None, max_length=50, description="of these kinds, with commas between", json_schema_extra={"type": "string"}
    )
    queue: Names | None = Field(
        None, max_length=50, description="of these queues, with commas between", json_schema_extra={"type": "string"}
    )

    def wanted(self) -> Wanted:
        """Return the domain's filter."""
        return Wanted(
            frozenset(self.event) if self.event is not None else None,
            frozenset(self.kind) if self.kind is not None else None,
            frozenset(self.queue) if self.queue is not None else None,
            frozenset(self.state) if self.state is not None else None,
        )


class FeedQuery(FeedFilter):
    """Filter of a feed, and the position to start after."""

    after: Annotated[str, BeforeValidator(_placed)] = Field(
        "", description="the id of the last event you have (`next` of the page before); `now`: what comes from now on"
    )
    limit: int = Field(200, ge=1, le=1000)

    def position(self) -> FeedPosition | None:
        """Return the position to start after; None: now."""
        return None if self.after == NOW else read_position(self.after) or FeedPosition()


class FeedItem(BaseModel):
    """An event of one of the tenant's jobs."""

    id: str = Field(description="for `after` and Last-Event-ID")
    at: datetime
    event: Event
    state: State = Field(description="of the job, after it")
    run_no: int
    data: Any
    job_id: UUID
    kind: str | None
    queue: str | None


class Feed(BaseModel):
    """Events, oldest first. A page may be short or empty and still be followed by more."""

    events: list[FeedItem]
    next: str = Field(description="`after` of the next page")
    more: bool = Field(description="there is more by now")
