"""`GET /v1/jobs/{id}`, with `?wait=SECONDS`."""

from __future__ import annotations

import re
import time
from uuid import UUID

from flask import Response, request

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import Job, WaitQuery
from api.waits import CAN_PARK, PARKED, WAIT, Wait
from jobplatform.domain.jobs import JobView
from jobplatform.domain.states import SETTLED
from jobplatform.usecases import read_jobs

MAX_WAIT_SECONDS = 60.0
POLL_SECONDS = 0.1
_PREFER = re.compile(r"\bwait=(\d{1,4})\b")


def get_job(job_id: UUID) -> Response:
    """Read a job. With `?wait=SECONDS` (or `Prefer: wait=SECONDS`) the answer comes when the job has ended or died."""
    query = read_query(WaitQuery)
    seconds = query.wait or _preferred()
    has = services()
    job = read_jobs.get_job(has.ledger, tenant_id(), job_id)
    if seconds and job.state not in SETTLED and not request.environ.get(PARKED):
        if request.environ.get(CAN_PARK):
            request.environ[WAIT] = Wait(job_id, seconds)  # api.server asks again when the job has ended
        else:
            job = _wait_here(job, seconds)
    return answer(job.as_dict())


def _preferred() -> float:
    found = _PREFER.search(request.headers.get("Prefer", ""))
    return min(float(found.group(1)), MAX_WAIT_SECONDS) if found else 0.0


def _wait_here(job: JobView, seconds: float) -> JobView:
    """Wait in this thread, for servers without an event loop (gunicorn), while there is a place left to do so."""
    has = services()
    if not has.blocking_waits.acquire(blocking=False):
        return job
    try:
        deadline = time.monotonic() + seconds
        while job.state not in SETTLED and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            job = read_jobs.get_job(has.ledger, tenant_id(), job.id)
        return job
    finally:
        has.blocking_waits.release()


OPERATION = Operation(
    "GET",
    "/jobs/<uuid:job_id>",
    get_job,
    "Read a job",
    "jobs",
    answer=Job,
    query=WaitQuery,
    problems=(404, 422),
)
