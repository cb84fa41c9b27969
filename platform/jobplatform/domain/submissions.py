"""A submission as JSON: its schema, for every entry point."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
)

from jobplatform.domain.jobs import DEFAULT_PRIORITY, MAX_PRIORITY, SubmitJob, Unique
from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.texts import ESCAPED, null_error
from jobplatform.domain.validation import MAX_ERRORS, Mismatch, summarize, validate
from jobplatform.errors import InvalidPayload, InvalidRequest, NotJson

M = TypeVar("M", bound=BaseModel)

Tag = Annotated[str, Field(min_length=1, max_length=100)]


def _text_only(value: object) -> object:
    """Numbers are refused: they could be seconds or milliseconds since 1970."""
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise ValueError("a time as text with a zone, like 2026-01-31T12:00:00Z")
    return value


#: valid years of all times that callers give: beyond them calendars, time zones and clients fail
FIRST_YEAR, LAST_YEAR = 1900, 2999


def _in_utc(value: datetime) -> datetime:
    if not FIRST_YEAR < value.year < LAST_YEAR:  # a zone moves it by a day at most
        raise ValueError(f"a time between the years {FIRST_YEAR + 1} and {LAST_YEAR - 1}")
    return value.astimezone(UTC)


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
Moment = Annotated[AwareDatetime, BeforeValidator(_text_only), AfterValidator(_in_utc)]


class UniqueBody(BaseModel):
    """Makes a job unique by its key: while it is live, or for a period."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=255, description="any text of yours; a key per tenant")
    seconds: float | None = Field(
        None, gt=0, le=366 * 86_400, description="how long, from acceptance; none: while the job has not ended"
    )
    on_conflict: Literal["existing", "refuse"] = Field(
        "existing", description="answer with the job that is there, or with 409 duplicate_job"
    )


class SubmitBody(BaseModel):
    """A submission of a job."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "kind": "email.send",
                "payload": {"to": ["ada@example.com"], "subject": "Hello", "text": "Hello Ada"},
                "tags": ["welcome"],
            }
        },
    )

    kind: str = Field(min_length=1, max_length=200, description="what to do: see GET /v1/kinds")
    payload: dict[str, Any] = Field(description="fits the kind's schema")
    priority: StrictInt = Field(DEFAULT_PRIORITY, ge=0, le=MAX_PRIORITY, description="9 is the most urgent")
    run_at: Moment | None = Field(None, description="not before this time")
    start_by: Moment | None = Field(None, description="expires when no run has begun by this time")
    max_attempts: StrictInt | None = Field(None, ge=1, le=100, description="default: the kind's")
    tags: list[Tag] = Field(default_factory=list, max_length=20)
    unique: UniqueBody | None = Field(None, description="at most one such job")

    def command(self) -> SubmitJob:
        """Return the domain's command."""
        unique = self.unique
        return SubmitJob(
            kind=self.kind,
            payload=self.payload,
            priority=self.priority,
            run_at=self.run_at,
            start_by=self.start_by,
            max_attempts=self.max_attempts,
            tags=tuple(self.tags),
            unique=Unique(unique.key, unique.seconds, unique.on_conflict == "refuse") if unique else None,
        )


def check(model: type[M], value: dict[str, Any], raw: bytes = ESCAPED) -> M:
    """Validate against a model. Raises `InvalidRequest` with the wrong fields, 100 at most.

    `raw` is the JSON that the value was parsed from: without an escaped NUL the value is not searched for one.
    """
    if ESCAPED in raw and (wrong := null_error(value)):
        raise InvalidRequest(f"not as expected: {wrong.field}", (wrong,))
    try:
        return validate(model, value)
    except Mismatch as mismatch:
        named = summarize(mismatch.errors, mismatch.total)
        raise InvalidRequest(f"not as expected: {named}", mismatch.errors) from None


def read_submission(kinds: KindRegistry, body: Any, raw: bytes = ESCAPED) -> SubmitJob:
    """Return the validated command of a JSON value. The error also names wrong fields of the payload.

    Raises `NotJson`, `InvalidRequest`. `raw` as in `check`.
    """
    if not isinstance(body, dict):
        raise NotJson(
            f"expected a JSON object, got {body[:40]!r}"
            if isinstance(body, bytes)
            else f"expected a JSON object, got {type(body).__name__}"
        )
    try:
        return check(SubmitBody, body, raw).command()
    except InvalidRequest as error:
        kind, payload = body.get("kind"), body.get("payload")
        if isinstance(kind, str) and kind in kinds and isinstance(payload, dict):
            try:
                kinds.get(kind).parse(payload)
            except InvalidPayload as also:
                errors = error.errors + also.errors
                named = summarize(errors, len(errors))
                raise InvalidRequest(f"not as expected: {named}", errors[:MAX_ERRORS]) from None
        raise
