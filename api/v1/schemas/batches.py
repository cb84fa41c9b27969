"""Requests and responses of batches."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel

from api.v1.schemas.base import StrictModel
from api.v1.schemas.problems import Problem
from jobplatform.domain.states import State
from jobplatform.domain.submissions import SubmitBody
from jobplatform.usecases.submit_batch import MOST_JOBS


class BatchBody(RootModel[list[SubmitBody]]):
    """Job requests, each as in POST /v1/jobs."""

    model_config = ConfigDict(
        json_schema_extra={
            "minItems": 1,
            "maxItems": MOST_JOBS,
            "example": [
                {"kind": "email.send", "payload": {"to": ["ada@example.com"], "subject": "Hello", "text": "Hello"}},
                {"kind": "email.send", "payload": {"to": ["bob@example.com"], "subject": "Hello", "text": "Hello"}},
            ],
        }
    )


class BatchQuery(StrictModel):
    """Options of a batch."""

    per_item: bool = Field(False, description="accept each that can be, and say what is wrong with the others")


class BatchItem(BaseModel):
    """The result for one job request: its job, or the problem."""

    id: UUID | None = None
    kind: str | None = None
    queue: str | None = None
    state: State | None = Field(None, description="null: the job was there before, and holds the unique key")
    problem: Problem | None = None


class Batch(BaseModel):
    """The results of a batch, in the order of the request."""

    batch_id: UUID = Field(description="in the histories of its jobs")
    accepted: int
    refused: int
    jobs: list[BatchItem]
