"""Requests and answers about files."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import (
    BaseModel,
    Field,
)

from api.v1.schemas.base import StrictModel


class UploadQuery(StrictModel):
    """Name of an upload."""

    filename: str = Field("upload", min_length=1, max_length=200)


class Artifact(BaseModel):
    """A file: an upload, or the output of a run."""

    id: UUID
    name: str
    content_type: str
    size: int = Field(description="bytes")
    sha256: str
    url: str
    job_id: UUID | None = None
    run_no: int | None = None
    created_at: datetime | None = None


class ArtifactList(BaseModel):
    """The artifacts of a job, in order."""

    artifacts: list[Artifact]
