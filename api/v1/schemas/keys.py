"""Requests and answers on API keys and the audit log."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from api.v1.schemas.base import Page, PageQuery, StrictModel
from jobplatform.domain.access import USUAL_SCOPES, Scope
from jobplatform.domain.jobs import MAX_PRIORITY
from jobplatform.domain.submissions import Moment
from jobplatform.ledger.keys import Grants
from jobplatform.usecases.manage_keys import LONGEST_OVERLAP_SECONDS, MOST_KINDS, USUAL_OVERLAP_SECONDS


class KeyBody(StrictModel):
    """Purpose and grants of a new key."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"name": "shop", "scopes": ["jobs:submit"], "kinds": ["email.*"]}},
    )

    name: str = Field(min_length=1, max_length=100, description="what it is for; shown in histories of jobs")
    scopes: list[Scope] = Field(list(USUAL_SCOPES), max_length=len(Scope))
    kinds: list[str] | None = Field(
        None, min_length=1, max_length=MOST_KINDS, description="what it may submit: email.send, email.*; none: all"
    )
    max_priority: StrictInt = Field(MAX_PRIORITY, ge=0, le=MAX_PRIORITY, description="the highest it may ask for")
    requests_per_minute: StrictInt | None = Field(None, ge=1, le=10_000_000, description="none: as many as it likes")
    expires_at: Moment | None = None
    operator: bool = Field(False, description="may change what concerns all tenants; wants an operator's key")
    tenant: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="for another tenant, made when there is none; wants an operator's key",
    )

    def grants(self) -> Grants:
        """Return what the key may do."""
        return Grants(
            scopes=tuple(dict.fromkeys(self.scopes)),
            kinds=tuple(self.kinds) if self.kinds is not None else None,
            max_priority=self.max_priority,
            is_operator=self.operator,
            requests_per_minute=self.requests_per_minute,
            expires_at=self.expires_at,
        )


class RotateBody(StrictModel):
    """For how long the old key stays valid."""

    overlap_seconds: float = Field(USUAL_OVERLAP_SECONDS, ge=0, le=LONGEST_OVERLAP_SECONDS)


class Key(BaseModel):
    """An API key, without the secret."""

    id: UUID
    prefix: str = Field(description="its first characters")
    name: str
    tenant: str
    scopes: list[Scope]
    kinds: list[str] | None
    max_priority: int
    is_operator: bool
    requests_per_minute: int | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="to a minute")
    revoked_at: datetime | None
    replaces: UUID | None = Field(description="the key that it replaces")


class NewKey(Key):
    """A new API key, with the secret."""

    key: str = Field(description="shown this once")


class KeyPage(Page):
    """Keys, oldest first."""

    keys: list[Key]


class KeysQuery(PageQuery):
    """A page of keys."""


class AuditQuery(StrictModel):
    """A page of the audit log."""

    key_id: UUID | None = Field(None, description="what was done by this key")
    limit: int = Field(50, ge=1, le=200)
    cursor: int | None = Field(None, ge=0, le=2**63 - 1, description="next_cursor of the page before")


class Action(BaseModel):
    """A change made with a key."""

    id: int
    at: datetime
    key_id: UUID
    key_name: str
    action: str = Field(description="the operationId")
    path: str
    address: str | None
    status: int | None = Field(description="of the answer; null: it was never finished, what came of it is not known")
    code: str | None = Field(description="of the problem")


class ActionPage(BaseModel):
    """Changes, newest first. Submissions are in the history of jobs and workflows."""

    actions: list[Action]
    next_cursor: int | None
