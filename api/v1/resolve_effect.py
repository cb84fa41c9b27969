"""`POST /v1/jobs/{id}/resolve`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_body
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.dead_letter_models import ResolveBody
from api.v1.models import Job
from jobplatform.domain.access import Scope
from jobplatform.usecases import resolve_effect as usecase


def resolve_effect(job_id: UUID) -> Response:
    """Say whether the effect took place that holds the job; it runs again, and finds it done or does it."""
    has = services()
    body = read_body(ResolveBody, has.settings.max_body_bytes)
    job = usecase.resolve_effect(
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


OPERATION = Operation(
    "POST",
    "/jobs/<uuid:job_id>/resolve",
    resolve_effect,
    "Resolve an unknown effect",
    "dead letters",
    Scope.CONTROL,
    status=202,
    answer=Job,
    body=ResolveBody,
    problems=(400, 404, 409, 413, 415, 422),
)
