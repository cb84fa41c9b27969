"""`POST /v1/schedules/{name}/pause`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import Schedule
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def pause_schedule(name: str) -> Response:
    """Pause a schedule: it fires no more until it is resumed."""
    found = usecase.pause_schedule(services().ledger, tenant_id(), name, True, by=caller().key_name)
    return answer(found.as_dict())


OPERATION = Operation(
    "POST",
    "/schedules/<name>/pause",
    pause_schedule,
    "Pause a schedule",
    "schedules",
    Scope.CONTROL,
    answer=Schedule,
    problems=(404,),
)
