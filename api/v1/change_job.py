"""`PATCH /v1/jobs/{id}`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_body
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import ChangeBody, Job
from jobplatform.domain.access import Scope
from jobplatform.usecases import change_job as usecase


def change_job(job_id: UUID) -> Response:
    """Change priority or run_at of a job that no run has; a run_at that has passed means at once."""
    has = services()
    body = read_body(ChangeBody, has.settings.max_body_bytes)
    caller().check_priority(body.priority)
    job = usecase.change_job(
        has.ledger,
        has.hints,
        tenant_id(),
        job_id,
        priority=body.priority,
        run_at=body.run_at,
        by=caller().key_name,
    )
    return answer(job.as_dict())


OPERATION = Operation(
    "PATCH",
    "/jobs/<uuid:job_id>",
    change_job,
    "Change a job's priority or time",
    "jobs",
    Scope.CONTROL,
    answer=Job,
    body=ChangeBody,
    problems=(400, 403, 404, 409, 413, 415, 422),
)
