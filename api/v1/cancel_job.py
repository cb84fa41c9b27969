"""`POST /v1/jobs/{id}/cancel`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_optional
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import CancelBody, Job
from jobplatform.domain.access import Scope
from jobplatform.domain.states import State
from jobplatform.usecases.cancel_job import cancel_job as cancel


def cancel_job(job_id: UUID) -> Response:
    """Call a job off: at once (200) unless it runs; a running one is told, and killed after a grace (202).

    Repeating changes nothing. A job that has ended otherwise answers 409: the first commit wins.
    """
    has = services()
    body = read_optional(CancelBody, has.settings.max_body_bytes)
    job = cancel(has.ledger, tenant_id(), job_id, body.reason, by=caller().key_name)
    return answer(job.as_dict(), 202 if job.state is State.RUNNING else 200)


OPERATION = Operation(
    "POST",
    "/jobs/<uuid:job_id>/cancel",
    cancel_job,
    "Cancel a job",
    "jobs",
    Scope.CONTROL,
    answer=Job,
    body=CancelBody,
    body_required=False,
    also=((202, "It runs: it is told, and killed after a grace"),),
    problems=(400, 404, 409, 413, 415, 422),
)
