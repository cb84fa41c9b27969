"""`GET /v1/schedules/{name}`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import Schedule
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def get_schedule(name: str) -> Response:
    """Read a schedule: what it does, when it fires next, and what it fired last."""
    return answer(usecase.get_schedule(services().ledger, tenant_id(), name).as_dict())


OPERATION = Operation(
    "GET",
    "/schedules/<name>",
    get_schedule,
    "Read a schedule",
    "schedules",
    Scope.READ,
    answer=Schedule,
    problems=(404,),
)
