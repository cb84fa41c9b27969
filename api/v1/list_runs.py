"""`GET /v1/jobs/{id}/runs`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import RunList
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_jobs


def list_runs(job_id: UUID) -> Response:
    """List the runs of a job in order; one that goes on has the outcome "running"."""
    return answer({"runs": read_jobs.list_runs(services().ledger, tenant_id(), job_id)})


OPERATION = Operation(
    "GET",
    "/jobs/<uuid:job_id>/runs",
    list_runs,
    "List a job's runs",
    "jobs",
    Scope.READ,
    answer=RunList,
    problems=(404,),
)
