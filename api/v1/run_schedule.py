"""`POST /v1/schedules/{name}/run`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import RunNow
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def run_schedule(name: str) -> Response:
    """Fire a schedule now, once, beside its times; also when it is paused."""
    has, who = services(), caller()

    def check(kind: str, priority: int) -> None:
        who.check_kinds([kind])
        who.check_priority(priority)

    job_id = usecase.run_now(has.ledger, has.hints, tenant_id(), name, by=who.key_name, check=check)
    return answer({"job_id": job_id}, 202, {"Location": f"/v1/jobs/{job_id}"})


OPERATION = Operation(
    "POST",
    "/schedules/<name>/run",
    run_schedule,
    "Run a schedule now",
    "schedules",
    Scope.SUBMIT,
    status=202,
    answer=RunNow,
    problems=(404,),
)
