"""Cancel, change, discard and replay a job, and resolve its effects."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.auth import caller, tenant_id
from api.operations import operation
from api.responses import answer, read_body, read_optional
from api.services import services
from api.v1.schemas.dead_letters import DiscardBody, ReplayBody, ResolveBody
from api.v1.schemas.jobs import CancelBody, ChangeBody, Job
from jobplatform.domain.access import Scope
from jobplatform.domain.states import State
from jobplatform.usecases.cancel_job import cancel_job as cancel
from jobplatform.usecases.change_job import change_job as change
from jobplatform.usecases.discard_job import discard_job as discard
from jobplatform.usecases.replay_job import replay_job as replay
from jobplatform.usecases.resolve_effect import resolve_effect as resolve


@operation(
    "POST",
    "/jobs/<uuid:job_id>/cancel",
    "Cancel a job",
    "jobs",
    Scope.CONTROL,
    answer=Job,
    body=CancelBody,
    body_required=False,
    also=((202, "The job runs: its handler is notified, and killed after a grace period"),),
    problems=(404, 409),
)
def cancel_job(job_id: UUID) -> Response:
    """Cancel a job: at once (200), or, while it runs, after its handler was notified and a grace period has passed
    (202).

    Idempotent. A job that has ended in another state answers 409: the first commit wins.
    """
    has = services()
    body = read_optional(CancelBody, has.settings.max_body_bytes)
    job = cancel(has.ledger, tenant_id(), job_id, body.reason, by=caller().key_name)
    return answer(job.as_dict(), 202 if job.state is State.RUNNING else 200)


@operation(
    "PATCH",
    "/jobs/<uuid:job_id>",
    "Change a job's priority or time",
    "jobs",
    Scope.CONTROL,
    answer=Job,
    body=ChangeBody,
    problems=(404, 409),
)
def change_job(job_id: UUID) -> Response:
    """Change the priority or `run_at` of a job that is not running. A `run_at` in the past means "now"."""
    has = services()
    body = read_body(ChangeBody, has.settings.max_body_bytes)
    caller().check_priority(body.priority)
    job = change(
        has.ledger,
        has.hints,
        tenant_id(),
        job_id,
        priority=body.priority,
        run_at=body.run_at,
        by=caller().key_name,
    )
    return answer(job.as_dict())


@operation(
    "POST",
    "/jobs/<uuid:job_id>/discard",
    "Discard a dead letter",
    "dead letters",
    Scope.CONTROL,
    answer=Job,
    body=DiscardBody,
    problems=(404, 409),
)
def discard_job(job_id: UUID) -> Response:
    """Discard a job that is dead or held. It stays in the history with the reason. Idempotent."""
    has = services()
    body = read_body(DiscardBody, has.settings.max_body_bytes)
    job = discard(has.ledger, tenant_id(), job_id, body.reason, by=caller().key_name)
    return answer(job.as_dict())


@operation(
    "POST",
    "/jobs/<uuid:job_id>/replay",
    "Replay a job",
    "dead letters",
    Scope.CONTROL,
    status=202,
    answer=Job,
    body=ReplayBody,
    body_required=False,
    problems=(404, 409),
)
def replay_job(job_id: UUID) -> Response:
    """Replay a job that is dead, cancelled or expired: same id, its history is kept, its attempts start from zero."""
    has = services()
    body = read_optional(ReplayBody, has.settings.max_body_bytes)
    job = replay(has.ledger, has.hints, tenant_id(), job_id, by=caller().key_name, reason=body.reason)
    return answer(job.as_dict(), 202)


@operation(
    "POST",
    "/jobs/<uuid:job_id>/resolve",
    "Resolve an effect with unknown outcome",
    "dead letters",
    Scope.CONTROL,
    status=202,
    answer=Job,
    body=ResolveBody,
    problems=(404, 409),
)
def resolve_effect(job_id: UUID) -> Response:
    """Record whether the effect that holds the job took place. The job runs again, and skips or repeats the effect."""
    has = services()
    body = read_body(ResolveBody, has.settings.max_body_bytes)
    job = resolve(
        has.ledger,
        has.hints,
        tenant_id(),
        job_id,
        body.effect,
        happened=body.happened,
        receipt=body.receipt,
        by=caller().key_name,
    )
    return answer(job.as_dict(), 202)
