"""`POST /v1/jobs/{id}/replay`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_optional
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.dead_letter_models import ReplayBody
from api.v1.models import Job
from jobplatform.domain.access import Scope
from jobplatform.usecases import replay_job as usecase


def replay_job(job_id: UUID) -> Response:
    """Run a job again that is dead, cancelled or expired: same id, its history kept, its attempts begin anew."""
    has = services()
    body = read_optional(ReplayBody, has.settings.max_body_bytes)
    job = usecase.replay_job(has.ledger, has.hints, tenant_id(), job_id, by=caller().key_name, reason=body.reason)
    return answer(job.as_dict(), 202)


OPERATION = Operation(
    "POST",
    "/jobs/<uuid:job_id>/replay",
    replay_job,
    "Run a job again",
    "dead letters",
    Scope.CONTROL,
    status=202,
    answer=Job,
    body=ReplayBody,
    body_required=False,
    problems=(400, 404, 409, 413, 415, 422),
)
