"""`PUT /v1/schedules/{name}`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_body
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import Schedule, ScheduleBody, checked_name
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def put_schedule(name: str) -> Response:
    """Make a schedule, or put it in the place of the one with its name. Repeating it changes nothing.

    What comes when: a cron expression in a time zone, an interval, or a list of times. Its times go on where they were
    unless they are changed.
    """
    has = services()
    order = read_body(ScheduleBody, has.settings.max_body_bytes).order(checked_name(name))
    caller().check_priority(order.priority)
    caller().check_kinds([order.kind])
    put = usecase.put_schedule(
        has.ledger, has.kinds, tenant_id(), order, by=caller().key_name, most=has.settings.max_schedules
    )
    return answer(put.as_dict())


OPERATION = Operation(
    "PUT",
    "/schedules/<name>",
    put_schedule,
    "Put a schedule",
    "schedules",
    Scope.SUBMIT,
    answer=Schedule,
    body=ScheduleBody,
    problems=(400, 403, 409, 413, 415, 422),
)
