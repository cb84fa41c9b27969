"""Requests and answers about webhooks, as pydantic models."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.v1.schemas.base import Page, PageQuery, StrictModel
from jobplatform.domain.states import State
from jobplatform.domain.submissions import Moment
from jobplatform.domain.webhooks import TYPES, USUAL_TYPES
from jobplatform.usecases.manage_keys import LONGEST_OVERLAP_SECONDS, USUAL_OVERLAP_SECONDS
from jobplatform.usecases.manage_webhooks import MOST_URL_CHARACTERS, NewEndpoint

_EVENTS = f"types of messages: {', '.join(TYPES)}"
_KINDS = "kinds of jobs whose events it receives, or patterns of them (`email.*`); null: all"
_CONTACT = "an e-mail address that is notified when the webhook is disabled"


class WebhookBody(StrictModel):
    """A webhook to create."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"url": "https://example.com/hooks/jobs", "events": ["job.succeeded", "job.dead"]}
        },
    )

    url: str = Field(min_length=1, max_length=MOST_URL_CHARACTERS)
    events: list[str] = Field(
        default_factory=lambda: list(USUAL_TYPES), min_length=1, max_length=50, description=_EVENTS
    )
    kinds: list[str] | None = Field(None, description=_KINDS)
    description: str = Field("", max_length=200)
    contact: str | None = Field(None, max_length=320, description=_CONTACT)

    def endpoint(self) -> NewEndpoint:
        """Return the use case's command."""
        kinds = tuple(self.kinds) if self.kinds is not None else None
        return NewEndpoint(self.url, tuple(self.events), kinds, self.description, self.contact)


class WebhookChange(BaseModel):
    """Fields to change; missing fields are left unchanged."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"enabled": True}})

    url: str = Field("", min_length=1, max_length=MOST_URL_CHARACTERS)
    events: list[str] = Field(default_factory=list, min_length=1, max_length=50, description=_EVENTS)
    kinds: list[str] | None = Field(None, description=_KINDS)
    description: str = Field("", max_length=200)
    contact: str | None = Field(None, max_length=320, description=_CONTACT)
    enabled: bool = Field(True, description="true: it receives events from now on")


class Webhook(BaseModel):
    """A webhook."""

    id: UUID
    url: str
    description: str
    events: list[str]
    kinds: list[str] | None
    contact: str | None
    created_at: datetime
    created_by: str
    delivered_at: datetime | None = Field(description="the last time, to a minute")
    failing_since: datetime | None = Field(description="nothing was delivered since the first failure then")
    last_error: str | None
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    replaying: bool = Field(description="events of before are being looked at again")


class WebhookWithSecret(Webhook):
    """A webhook that was just created, or whose secret was rotated."""

    secret: str = Field(description="what messages are signed with, by Standard Webhooks; shown this once")


class WebhookList(BaseModel):
    """A tenant's webhooks, oldest first."""

    webhooks: list[Webhook]


class WebhookRotateBody(StrictModel):
    """For how long the old secret signs in addition to the new one."""

    overlap_seconds: float = Field(USUAL_OVERLAP_SECONDS, ge=0, le=LONGEST_OVERLAP_SECONDS)


class WebhookReplayBody(BaseModel):
    """Start of the replay, and which events it includes."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"since": "2026-01-31T12:00:00Z"}})

    since: Moment
    everything: bool = Field(False, description="what was delivered, too")


class Message(BaseModel):
    """An event for a webhook, and its delivery."""

    id: UUID = Field(description="the header webhook-id is `msg_` and this")
    type: str
    about: UUID | None = Field(description="the job of the event; null: a test")
    job_id: UUID = Field(description="the job that delivers it: its runs are the attempts")
    created_at: datetime
    replays: int
    state: State | None = Field(description="of the job that delivers it; null: it is not kept any more")
    attempts: int | None
    next_at: datetime | None = Field(description="of the next attempt")
    answer: dict[str, Any] | None = Field(description="how the receiver has taken it")
    error: dict[str, Any] | None = Field(description="of the last attempt that failed")


class MessagePage(Page):
    """Messages of a webhook, newest first."""

    messages: list[Message]


class MessagesQuery(PageQuery):
    """A page of messages."""
