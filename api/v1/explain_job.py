"""`GET /v1/jobs/{id}/explain`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import Explanation
from jobplatform.domain.access import Scope
from jobplatform.usecases import explain_job as usecase


def explain_job(job_id: UUID) -> Response:
    """Tell why a job is where it is: everything that keeps it from running, in order, and its time in each state."""
    has = services()
    return answer(usecase.explain_job(has.ledger, has.settings, tenant_id(), job_id).as_dict())


OPERATION = Operation(
    "GET",
    "/jobs/<uuid:job_id>/explain",
    explain_job,
    "Explain where a job is",
    "jobs",
    Scope.READ,
    answer=Explanation,
    problems=(404,),
)
