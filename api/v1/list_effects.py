"""`GET /v1/jobs/{id}/effects`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import EffectList
from jobplatform.domain.access import Scope
from jobplatform.usecases import resolve_effect as usecase


def list_effects(job_id: UUID) -> Response:
    """List what the job has done to the outside world, or intended to: the effect journal."""
    return answer({"effects": usecase.list_effects(services().ledger, tenant_id(), job_id)})


OPERATION = Operation(
    "GET",
    "/jobs/<uuid:job_id>/effects",
    list_effects,
    "List a job's effects",
    "jobs",
    Scope.READ,
    answer=EffectList,
    problems=(404,),
)
