"""`POST /v1/jobs`."""

from __future__ import annotations

from flask import Response, request

from api.answers import answer, check, read_object
from api.auth import admit_now
from api.operations import Operation
from api.services import Services, services
from api.v1.models import Job, SubmitBody
from jobplatform.domain.jobs import SubmitJob
from jobplatform.errors import (
    FieldError,
    InvalidPayload,
    InvalidRequest,
    JobPlatformError,
    LedgerUnavailable,
    OutcomeUnknown,
    Unauthorized,
)
from jobplatform.usecases.admit import read_key
from jobplatform.usecases.submit_job import Accepted, ApiKey
from jobplatform.usecases.submit_job import submit_job as submit

MAX_KEY_CHARACTERS = 255


def submit_job() -> Response:
    """Accept a job. The 202 leaves only after the job is committed; the broker is not needed for that.

    With an `Idempotency-Key`, a repetition of the same request gives the same job again (24 hours).
    """
    key = read_key(request.headers.get("Authorization"))
    try:
        accepted = _accept(services(), ApiKey(key))
    except (Unauthorized, LedgerUnavailable, OutcomeUnknown):
        raise
    except JobPlatformError:
        admit_now()  # what is wrong with an order is told to those with a valid key only
        raise
    headers = {"Location": f"/v1/jobs/{accepted.job.id}"}
    if not accepted.created:
        headers["Idempotent-Replayed"] = "true"
    return answer(accepted.job.as_dict(), 202, headers)


def _accept(has: Services, caller: ApiKey) -> Accepted:
    body = _read(has)
    return submit(
        has.ledger,
        has.hints,
        has.kinds,
        caller,
        SubmitJob(
            kind=body.kind,
            payload=body.payload,
            priority=body.priority,
            run_at=body.run_at,
            start_by=body.start_by,
            max_attempts=body.max_attempts,
            tags=tuple(body.tags),
        ),
        idempotency_key=_idempotency_key(),
        idempotency_seconds=has.settings.idempotency_seconds,
    )


def _read(has: Services) -> SubmitBody:
    """Return the checked order; when it is wrong, the error names the wrong fields of its payload too."""
    order = read_object(has.settings.max_body_bytes)
    try:
        return check(SubmitBody, order)
    except InvalidRequest as error:
        kind, payload = order.get("kind"), order.get("payload")
        if isinstance(kind, str) and kind in has.kinds and isinstance(payload, dict):
            try:
                has.kinds.get(kind).parse(payload)
            except InvalidPayload as also:
                errors = error.errors + also.errors
                named = ", ".join(item.field for item in errors[:5])
                raise InvalidRequest(f"not as expected: {named}", errors) from None
        raise


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_CHARACTERS or not key.isprintable():
        expected = f"1 to {MAX_KEY_CHARACTERS} printable characters"
        raise InvalidRequest(
            f"Idempotency-Key: expected {expected}",
            (FieldError("Idempotency-Key", expected, f"{len(key)} characters"),),
        )
    return key


OPERATION = Operation(
    "POST",
    "/jobs",
    submit_job,
    "Submit a job",
    "jobs",
    status=202,
    answer=Job,
    body=SubmitBody,
    headers=(("Idempotency-Key", "makes a repetition safe; any text of yours, 1 to 255 characters"),),
    problems=(400, 409, 413, 415, 422),
)
