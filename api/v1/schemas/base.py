"""What models of requests and of pages have in common."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class StrictModel(BaseModel):
    """A body or query; a field that it does not have is an error."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(StrictModel):
    """How many items, and from where on."""

    limit: int = Field(50, ge=1, le=200)
    cursor: UUID | None = Field(None, description="next_cursor of the page before")


class Page(BaseModel):
    """A page of items; without a next_cursor it is the last."""

    next_cursor: UUID | None
