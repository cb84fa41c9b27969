"""`GET /v1/jobs/{id}`, with `?wait=SECONDS`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, if_changed, only, read_query
from api.auth import tenant_id
from api.ends import when_ended
from api.operations import Operation
from api.services import services
from api.v1.models import Job, WaitQuery
from jobplatform.domain.access import Scope
from jobplatform.domain.states import SETTLED
from jobplatform.usecases import read_jobs


def get_job(job_id: UUID) -> Response:
    """Read a job. With `?wait=SECONDS` (or `Prefer: wait=SECONDS`) the answer comes when the job has ended or died.

    The answer has an `ETag`; with `If-None-Match` a job that is as it was is answered 304.
    """
    query = read_query(WaitQuery)
    ledger, tenant = services().ledger, tenant_id()
    job = when_ended(
        job_id, query.wait, lambda: read_jobs.get_job(ledger, tenant, job_id), lambda one: one.state in SETTLED
    )
    return if_changed(answer(only(query.fields, job.as_dict())))


OPERATION = Operation(
    "GET",
    "/jobs/<uuid:job_id>",
    get_job,
    "Read a job",
    "jobs",
    Scope.READ,
    answer=Job,
    query=WaitQuery,
    headers=(("If-None-Match", "the ETag of the answer that you have"),),
    also=((304, "It is as it was"),),
    problems=(404, 422),
)
