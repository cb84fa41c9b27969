"""Base models of requests and of pages."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class StrictModel(BaseModel):
    """A body or query; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(StrictModel):
    """Size of the page, and the cursor to continue from."""

    limit: int = Field(50, ge=1, le=200)
    cursor: UUID | None = Field(None, description="next_cursor of the page before")


class Page(BaseModel):
    """A page of items; the last page has no next_cursor."""

    next_cursor: UUID | None
