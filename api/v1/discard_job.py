"""`POST /v1/jobs/{id}/discard`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_body
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.dead_letter_models import DiscardBody
from api.v1.models import Job
from jobplatform.domain.access import Scope
from jobplatform.usecases import discard_job as usecase


def discard_job(job_id: UUID) -> Response:
    """Throw away a job that is dead or held; it stays in history with the reason. Repeating changes nothing."""
    has = services()
    body = read_body(DiscardBody, has.settings.max_body_bytes)
    job = usecase.discard_job(has.ledger, tenant_id(), job_id, body.reason, by=caller().key_name)
    return answer(job.as_dict())


OPERATION = Operation(
    "POST",
    "/jobs/<uuid:job_id>/discard",
    discard_job,
    "Throw a dead letter away",
    "dead letters",
    Scope.CONTROL,
    answer=Job,
    body=DiscardBody,
    problems=(400, 404, 409, 413, 415, 422),
)
