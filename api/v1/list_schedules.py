"""`GET /v1/schedules`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import SchedulePage, SchedulesQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def list_schedules() -> Response:
    """List schedules in the order of their names. Go on with `next_cursor`."""
    query = read_query(SchedulesQuery)
    found, cursor = usecase.list_schedules(services().ledger, tenant_id(), after=query.cursor, limit=query.limit)
    return answer({"schedules": [one.as_dict() for one in found], "next_cursor": cursor})


OPERATION = Operation(
    "GET",
    "/schedules",
    list_schedules,
    "List schedules",
    "schedules",
    Scope.READ,
    answer=SchedulePage,
    query=SchedulesQuery,
    problems=(422,),
)
