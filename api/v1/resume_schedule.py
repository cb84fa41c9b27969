"""`POST /v1/schedules/{name}/resume`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import Schedule
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def resume_schedule(name: str) -> Response:
    """Resume a schedule. What was planned meanwhile is not made up for."""
    found = usecase.pause_schedule(services().ledger, tenant_id(), name, False, by=caller().key_name)
    return answer(found.as_dict())


OPERATION = Operation(
    "POST",
    "/schedules/<name>/resume",
    resume_schedule,
    "Resume a schedule",
    "schedules",
    Scope.CONTROL,
    answer=Schedule,
    problems=(404,),
)
