"""`POST /v1/jobs`."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from flask import Response, g, request

from api.answers import as_json, check_length, parse_object
from api.measure import harmless
from api.operations import Operation
from api.services import Services, services
from api.v1.models import Job
from jobplatform.domain.access import Scope
from jobplatform.domain.jobs import JobView, SubmitJob
from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.orders import SubmitBody, read_order
from jobplatform.errors import (
    FieldError,
    InvalidRequest,
    JobPlatformError,
    LedgerUnavailable,
    NotAllowed,
    OutcomeUnknown,
    RateLimited,
    Unauthorized,
)
from jobplatform.observe.metrics import api_metrics
from jobplatform.usecases.admit import Caller, admit, read_key
from jobplatform.usecases.submit_job import Accepted, ApiKey
from jobplatform.usecases.submit_job import submit_job as submit

MAX_KEY_CHARACTERS = 255


def submit_job() -> Response:
    """Accept a job. The 202 leaves only after the job is committed; the broker is not needed for that.

    With an `Idempotency-Key`, a repetition of the same request gives the same job again (24 hours).
    """
    has = services()
    check_length(has.settings.max_body_bytes)
    order = Order(
        body=request.get_data(cache=False),
        media_type=request.mimetype,
        authorization=request.headers.get("Authorization"),
        idempotency_key=request.headers.get("Idempotency-Key"),
    )
    status, body, headers = accept(has, order, g.get("caller"))
    return Response(body, status, headers, mimetype="application/json")


@dataclass(frozen=True)
class Order:
    """A submit request, whatever server and framework it came through."""

    body: bytes
    media_type: str
    authorization: str | None
    idempotency_key: str | None


def accept(has: Services, order: Order, known: Caller | None = None) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Accept a job; returns status, body and further headers. `known`: who calls, where the key was looked up before.

    Raises our errors, and what is wrong with an order is told to those with a valid key only.
    """
    if known is not None:
        command = read_command(has.kinds, order)
        known.check_priority(command.priority)
        known.check_kinds([command.kind])
        made = _submit(has, known.tenant_id, command, order, known.key_name)
        return reply_to(made.job, created=made.created)
    key = read_key(order.authorization)
    try:
        accepted = _accept(has, ApiKey(key), order)
    except (Unauthorized, NotAllowed, RateLimited, LedgerUnavailable, OutcomeUnknown):
        raise
    except JobPlatformError as error:
        if not error.caller_is_known:
            admit(has.ledger, order.authorization).check_scope(Scope.SUBMIT)
        raise
    status, body, headers = reply_to(accepted.job, created=accepted.created)
    if accepted.caller is not None and accepted.caller.rate is not None:
        headers += accepted.caller.rate.headers().items()
    return status, body, headers


def reply_to(job: JobView, *, created: bool) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Return status, body and further headers for an accepted job, and count it when it was made just now."""
    headers = [("location", f"/v1/jobs/{job.id}")]
    if created:
        with harmless():
            api_metrics().accepted.labels(job.queue, job.kind).inc()
    else:
        headers.append(("idempotent-replayed", "true"))
    return 202, as_json(job.as_dict()), headers


def _accept(has: Services, caller: ApiKey, order: Order) -> Accepted:
    return _submit(has, caller, read_command(has.kinds, order), order)


def _submit(has: Services, caller: ApiKey | UUID, command: SubmitJob, order: Order, by: str | None = None) -> Accepted:
    return submit(
        has.ledger,
        has.hints,
        has.kinds,
        caller,
        command,
        idempotency_key=checked_key(order.idempotency_key),
        idempotency_seconds=has.settings.idempotency_seconds,
        by=by,
    )


def read_command(kinds: KindRegistry, order: Order) -> SubmitJob:
    """Return the checked command; when it is wrong, the error names the wrong fields of its payload too."""
    return read_order(kinds, parse_object(order.body, order.media_type), order.body)


def checked_key(key: str | None) -> str | None:
    """Return an Idempotency-Key that can be kept. Raises `InvalidRequest`."""
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
    Scope.SUBMIT,
    status=202,
    answer=Job,
    body=SubmitBody,
    headers=(("Idempotency-Key", "makes a repetition safe; any text of yours, 1 to 255 characters"),),
    problems=(400, 403, 409, 413, 415, 422, 429),
    logged=False,
)
