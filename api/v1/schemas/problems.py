"""Errors, as RFC 9457 problem+json."""

from __future__ import annotations

from pydantic import (
    BaseModel,
)


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] | None = None
