"""Submit and read jobs: `/v1/jobs`."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from flask import Response, g, request

from api.auth import tenant_id
from api.long_poll import when_ended
from api.metrics import ignore_metric_errors
from api.operations import operation
from api.responses import answer, as_json, check_length, if_changed, only, parse_object, read_query
from api.services import Services, services
from api.v1.schemas.jobs import EffectList, Explanation, Job, JobPage, ListQuery, RunList, WaitQuery
from jobplatform.domain.access import Scope
from jobplatform.domain.jobs import JobView, SubmitJob
from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.states import SETTLED
from jobplatform.domain.submissions import SubmitBody, read_submission
from jobplatform.errors import (
    FieldError,
    InvalidRequest,
    JobPlatformError,
)
from jobplatform.observe.metrics import api_metrics
from jobplatform.usecases import read_jobs
from jobplatform.usecases.admit import Caller, admit, read_key
from jobplatform.usecases.explain_job import explain_job as explain
from jobplatform.usecases.read_jobs import JobFilter
from jobplatform.usecases.resolve_effect import list_effects as read_effects
from jobplatform.usecases.submit_job import (
    Accepted,
    ApiKey,
    CheckedSubmission,
    check_submission,
    submit_checked_job,
)

MAX_KEY_CHARACTERS = 255


@operation(
    "POST",
    "/jobs",
    "Submit a job",
    "jobs",
    Scope.SUBMIT,
    status=202,
    answer=Job,
    body=SubmitBody,
    headers=(("Idempotency-Key", "makes retries safe; any text of 1 to 255 characters"),),
    problems=(409,),
    logged=False,
)
def submit_job() -> Response:
    """Accept a job. The 202 is sent after the job is committed; it does not need the broker.

    Repeating the request with the same `Idempotency-Key` returns the same job (for 24 hours).
    """
    has = services()
    check_length(has.settings.max_body_bytes)
    submission = SubmitRequest(
        body=request.get_data(cache=False),
        media_type=request.mimetype,
        authorization=request.headers.get("Authorization"),
        idempotency_key=request.headers.get("Idempotency-Key"),
    )
    status, body, headers = accept(has, submission, g.get("caller"))
    return Response(body, status, headers, mimetype="application/json")


@dataclass(frozen=True)
class SubmitRequest:
    """A submit request, independent of the server and framework that received it."""

    body: bytes
    media_type: str
    authorization: str | None
    idempotency_key: str | None


def accept(
    has: Services, submission: SubmitRequest, known: Caller | None = None
) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Accept a job; returns status, body and further headers. `known`: the caller, if the key was already looked up.

    Raises `JobPlatformError`. Validation errors are reported to callers with a valid key only.
    """
    if known is not None:
        command = read_command(has.kinds, submission)
        known.check_priority(command.priority)
        known.check_kinds([command.kind])
        made = _submit(has, known.tenant_id, check_submission(has.kinds, command), submission, known.key_name)
        return reply_to(made.job, created=made.created)
    key = read_key(submission.authorization)
    try:
        checked = check_submission(has.kinds, read_command(has.kinds, submission))
        checked_key(submission.idempotency_key)
    except JobPlatformError:
        admit(has.ledger, submission.authorization).check_scope(Scope.SUBMIT)
        raise
    accepted = _submit(has, ApiKey(key), checked, submission)
    status, body, headers = reply_to(accepted.job, created=accepted.created)
    if accepted.caller is not None and accepted.caller.rate is not None:
        headers += accepted.caller.rate.headers().items()
    return status, body, headers


def reply_to(job: JobView, *, created: bool) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Return status, body and further headers for an accepted job, and count it if it was created by this request."""
    headers = [("location", f"/v1/jobs/{job.id}")]
    if created:
        with ignore_metric_errors():
            api_metrics().accepted.labels(job.queue, job.kind).inc()
    else:
        headers.append(("idempotent-replayed", "true"))
    return 202, as_json(job.as_dict()), headers


def _submit(
    has: Services, caller: ApiKey | UUID, checked: CheckedSubmission, submission: SubmitRequest, by: str | None = None
) -> Accepted:
    return submit_checked_job(
        has.ledger,
        has.hints,
        caller,
        checked,
        idempotency_key=checked_key(submission.idempotency_key),
        idempotency_seconds=has.settings.idempotency_seconds,
        by=by,
    )


def read_command(kinds: KindRegistry, submission: SubmitRequest) -> SubmitJob:
    """Return the validated command. Raises `InvalidRequest`, which names the wrong fields of the payload too."""
    return read_submission(kinds, parse_object(submission.body, submission.media_type), submission.body)


def checked_key(key: str | None) -> str | None:
    """Return the Idempotency-Key if it is valid. Raises `InvalidRequest`."""
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_CHARACTERS or not key.isprintable():
        expected = f"1 to {MAX_KEY_CHARACTERS} printable characters"
        raise InvalidRequest(
            f"Idempotency-Key: expected {expected}",
            (FieldError("Idempotency-Key", expected, f"{len(key)} characters"),),
        )
    return key


@operation("GET", "/jobs", "List jobs", "jobs", Scope.READ, answer=JobPage, query=ListQuery)
def list_jobs() -> Response:
    """List jobs, newest first, by state, kind, queue, tag, error code and time of creation. Continue with
    `next_cursor`.

    A page reads a bounded number of jobs: it may be short or empty and still have a `next_cursor`.
    """
    query = read_query(ListQuery)
    jobs, cursor = read_jobs.list_jobs(
        services().ledger,
        tenant_id(),
        JobFilter(
            state=query.state,
            kind=query.kind,
            queue=query.queue,
            tag=query.tag,
            error_code=query.error_code,
            created_after=query.created_after,
            created_before=query.created_before,
        ),
        cursor=query.cursor,
        limit=query.limit,
    )
    return answer({"jobs": [only(query.fields, job.as_dict()) for job in jobs], "next_cursor": cursor})


@operation(
    "GET",
    "/jobs/<uuid:job_id>",
    "Read a job",
    "jobs",
    Scope.READ,
    answer=Job,
    query=WaitQuery,
    headers=(("If-None-Match", "the ETag of the answer that you have"),),
    also=((304, "Unchanged"),),
    problems=(404,),
)
def get_job(job_id: UUID) -> Response:
    """Read a job. With `?wait=SECONDS` (or `Prefer: wait=SECONDS`) the response is sent when the job has ended or is
    dead.

    The response has an `ETag`; with `If-None-Match` an unchanged job is answered with 304.
    """
    query = read_query(WaitQuery)
    ledger, tenant = services().ledger, tenant_id()
    job = when_ended(
        job_id, query.wait, lambda: read_jobs.get_job(ledger, tenant, job_id), lambda item: item.state in SETTLED
    )
    return if_changed(answer(only(query.fields, job.as_dict())))


@operation(
    "GET",
    "/jobs/<uuid:job_id>/explain",
    "Explain a job's state",
    "jobs",
    Scope.READ,
    answer=Explanation,
    problems=(404,),
)
def explain_job(job_id: UUID) -> Response:
    """Explain the state of a job: everything that keeps it from running, in order, and its time in each state."""
    has = services()
    return answer(explain(has.ledger, has.settings, tenant_id(), job_id).as_dict())


@operation("GET", "/jobs/<uuid:job_id>/runs", "List a job's runs", "jobs", Scope.READ, answer=RunList, problems=(404,))
def list_runs(job_id: UUID) -> Response:
    """List the runs of a job in order. A run in progress has the outcome "running"."""
    return answer({"runs": read_jobs.list_runs(services().ledger, tenant_id(), job_id)})


@operation(
    "GET", "/jobs/<uuid:job_id>/effects", "List a job's effects", "jobs", Scope.READ, answer=EffectList, problems=(404,)
)
def list_effects(job_id: UUID) -> Response:
    """List the effects of a job on other systems, done or intended: the effect journal."""
    return answer({"effects": read_effects(services().ledger, tenant_id(), job_id)})
